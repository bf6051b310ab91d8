"""A made comparison whose truth is known: what the statistics and the report are tested on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kd_perception.classes import load_class_set
from kd_perception.evaluation import comparison as c
from kd_perception.evaluation.metrics.boundary import count_boundaries
from kd_perception.evaluation.metrics.calibration import Calibration
from kd_perception.evaluation.metrics.flicker import count_flicker, SAME_PIXEL, stay, steady
from kd_perception.evaluation.metrics.frame_detail import FrameDetail

PERIOD_NS = 150_000_000


def _street(height: int, width: int, shift: int) -> np.ndarray:
    """Return ids of `driving` for a street in a few rectangles that moves with `shift`."""
    truth = np.full((height, width), 9, np.uint8)
    truth[height // 3:] = 3
    truth[height // 2:] = 2
    rows = np.arange(height)[:, None]
    columns = np.arange(width)[None]
    truth[(rows > height // 2) & (abs(columns - width // 2) < rows - height // 3)] = 0
    truth[(rows > height // 2) & (abs(columns - width // 2) < 2)] = 1
    left = (7 * shift) % (width - width // 5)
    truth[height // 2 - 8:height // 2 + 12, left:left + width // 6] = 11
    truth[height // 3:height // 2 + 10, width // 4:width // 4 + 3] = 4
    truth[:2] = 255
    return truth


def _blur_ids(truth: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a mask that is wrong on about `share` of the pixels, in rows as networks err."""
    mask = np.where(truth == 255, 9, truth).astype(np.uint8)
    wrong = rng.random(mask.shape) < share
    return np.where(wrong, np.roll(mask, 5, axis=1), mask)


def _detail(truth: np.ndarray, mask: np.ndarray, arm: str,
            last: dict[str, np.ndarray]) -> FrameDetail:
    """Count boundaries and flicker, and one vehicle of which as much is seen as is right."""
    own = truth == 11
    vehicle = [1, 4, 15_000, 900, int(own.sum()), int((mask[own] == 11).sum())]
    flicker = count_flicker(steady(stay(truth.shape), truth, last['truth']), mask,
                            last[arm]) if last else None
    return FrameDetail(count_boundaries(truth, mask, 12), np.array([vehicle], np.int32), flicker)


@pytest.fixture(scope='session')
def make_run() -> Callable[..., c.ComparisonRun]:
    """Return a maker of runs: arm a takes about 100 ms, arm b about 12 ms and errs a bit more."""

    def make(frames: int = 60, warmup: int = 5, *, labelled: bool = True, pictures: int = 2,
             lost_b: tuple[int, ...] = (), seed: int = 0, height: int = 90,
             width: int = 160, detailed: bool = False) -> c.ComparisonRun:
        rng = np.random.default_rng(seed)
        classes = load_class_set('driving')
        k = len(classes)
        rows: list[c.FrameRow] = []
        confusion = {arm: np.zeros((k, k + 1), np.int64) for arm in 'ab'}
        agreement = {'b': np.zeros((k, k + 1), np.int64)}
        samples = []
        calibrations = {arm: Calibration() for arm in 'ab'}
        last: dict[str, np.ndarray] = {}
        every = max(1, frames // max(1, pictures))
        for index in range(frames + warmup):
            truth = _street(height, width, index)
            masks = {'a': _blur_ids(truth, 0.05, rng), 'b': _blur_ids(truth, 0.15, rng)}
            for turn, arm in enumerate(rng.permutation(['a', 'b'])):
                inference = (95.0 if arm == 'a' else 8.0) * rng.lognormal(0, 0.05)
                stages = {'wait': 0.1, 'decode': 0.3, 'preprocess': 0.7, 'inference': inference,
                          'postprocess': 0.2, 'publish': 0.4}
                stages['total'] = sum(stages.values())
                published = index * PERIOD_NS + turn * 120_000_000
                received = published + round(1e6 * (stages['total'] + 1.5))
                lost = arm == 'b' and index in lost_b
                matrix = c.confusion_matrix(truth, masks[arm], k)
                if index >= warmup and not lost and labelled:
                    confusion[arm] += matrix
                rows.append(c.FrameRow(
                    arm, 10**9 + index * 33_333_333, 'camera', index, published,
                    None if lost else received, status='lost' if lost else 'ok', turn=turn,
                    stages={} if lost else stages,
                    counts=c.class_counts(matrix) if labelled and not lost else None,
                    detail=_detail(truth, masks[arm], arm, last) if detailed else None))
                calibrations[arm].update(truth, masks[arm], np.full_like(truth, 230))
            last = {'truth': truth, **masks}
            agreement['b'] += c.confusion_matrix(masks['a'], masks['b'], k)
            if index >= warmup and (index - warmup) % every == 0 and len(samples) < pictures:
                image = classes.palette()[np.where(truth == 255, 9, truth)]
                noise = rng.integers(-20, 20, image.shape)
                image = np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)
                samples.append(c.SamplePicture(index, 10**9 + index * 33_333_333, image,
                                               truth if labelled else None, masks))
        info = c.ArmInfo('a', 'street-teacher', 'ab' * 32, 'onnxruntime', 'cpu', 'fp32', 1,
                         'smp Unet resnet18', 11_200_000, 'teacher', 360, 640, classes.names)
        return c.ComparisonRun(
            spec=c.ComparisonSpec(
                arms=(c.ArmSpec('a', 'street-teacher', 'onnxruntime', threads=1),
                      c.ArmSpec('b', 'street-student', 'onnxruntime', threads=1)),
                frames=frames, warmup=warmup, width=width, height=height),
            arms=(info, replace(info, name='b', bundle='street-student', bundle_hash='cd' * 32,
                                network='compact 32', parameters=900_000, role='student')),
            rows=tuple(rows), classes=classes,
            confusion=confusion if labelled else {}, agreement=agreement,
            resources={'a': c.ResourceUsage(98.0, 612.0), 'b': c.ResourceUsage(24.0, 240.5)},
            counters={arm: {'received': frames + warmup, 'published': frames + warmup,
                            'overwritten': 0, 'stale': 0, 'failed': 0, 'inactive': 0,
                            'in_flight': 0} for arm in 'ab'},
            host={'cpu': 'a <fast> CPU & more', 'cores': '2', 'memory': '8 GB', 'gpu': 'none'},
            versions={'kd_perception': '0.1.0', 'numpy': np.__version__},
            pictures=tuple(samples), notes=(), started='2026-01-01T12:00:00+00:00',
            confidences={a: k.counts for a, k in calibrations.items()} if detailed else {},
            flicker_method=SAME_PIXEL if detailed else '')

    return make
