"""Labelling and training in several processes, and runs that are killed again and again."""

from __future__ import annotations

from contextlib import closing, suppress
import hashlib
import json
import os
from pathlib import Path
import random
import runpy
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
import torch
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, InputSpec, load_bundle, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.distillation.frame_store import FrameStore, labelled
from kd_perception.distillation.labelling_log import LABELLING_LOG
from kd_perception.distillation.processes import Processes
from kd_perception.distillation.targets.segmentation import SegmentationTarget, Validation
from kd_perception.distillation.trainer import _truth
from kd_perception.networks.deploy import load_module, save_bundle
from kd_perception.networks.registry import build

SCRIPT = Path(__file__).with_name('several.py')
runpy.run_path(str(SCRIPT))  # its network is known here, too
# Twenty for the full count; each costs the start of a process.
KILLS = int(os.environ.get('KD_PERCEPTION_KILLS', '2'))
pytestmark = pytest.mark.timeout(300 + 60 * KILLS)


def command(*words: object, processes: int = 1) -> list[str]:
    start = [sys.executable]
    if processes > 1:
        start += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node',
                  str(processes)]
    return [*start, str(SCRIPT), *map(str, words)]


def run(*words: object, processes: int = 1) -> None:
    done = subprocess.run(command(*words, processes=processes), capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory, driving: ClassSet) -> Path:
    """Return a folder with a teacher and a recipe of the network without batch norm."""
    folder = tmp_path_factory.mktemp('several')
    spec = BundleSpec(name='teacher', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(32, 48), network=NetworkSpec('plain', {'width': 16}))
    save_bundle(folder / 'teacher', build(spec.network, len(driving)), spec)
    (folder / 'recipe.yaml').write_text(yaml.safe_dump({
        'name': 'student', 'network': {'builder': 'plain'}, 'input': {'height': 32, 'width': 48},
        'data': {'defaults': {'classes': 'driving'}},
        # Views inside of the frame: every process has as many pixels that count.
        'augment': {'crop': [24, 32], 'scale': [1.0, 1.2]},
        'optimization': {'steps': 40, 'batch_size': 8, 'precision': 'fp32', 'ema_decay': 0.9,
                         'learning_rate': 0.01, 'checkpoint_minutes': 0.0, 'log_every': 1}}))
    return folder


def content(folder: Path) -> dict[str, str]:
    # The log of how long labelling took is no part of what the labels are.
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()
            if f.name != LABELLING_LOG}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / 'bundle' / 'weights.safetensors')


def test_two_processes_write_the_cache_of_one(world: Path, bare_stripes: Path,
                                              tmp_path: Path) -> None:
    for count in (1, 2):
        run('label', '--teacher', world / 'teacher', bare_stripes, '--out', tmp_path / str(count),
            '--engine', 'onnxruntime', '--shard-size', 3, processes=count)
    assert content(tmp_path / '1') == content(tmp_path / '2')
    assert len(content(tmp_path / '1')) == 2 * 4 + 1


def test_two_processes_train_as_one_does(world: Path, bare_stripes: Path,
                                         tmp_path: Path) -> None:
    run('label', '--teacher', world / 'teacher', bare_stripes, '--out', tmp_path / 'cache',
        '--engine', 'onnxruntime')
    for count in (1, 2):
        run('distill', world / 'recipe.yaml', '--teacher', world / 'teacher', '--cache',
            tmp_path / 'cache', '--data', bare_stripes, '--out', tmp_path / str(count),
            '--optimization.batch_size', 8 // count, '--no-report', processes=count)
    one, two = weights(tmp_path / '1'), weights(tmp_path / '2')
    begun = build(NetworkSpec('plain', {}), 12).state_dict()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-4), name
        assert not torch.allclose(tensor, begun[name], atol=1e-2), 'nothing was learned'


def test_two_processes_validate_every_frame_once(world: Path, stripes: Path,
                                                 driving: ClassSet, tmp_path: Path) -> None:
    run('train', world / 'recipe.yaml', '--data', stripes, '--out', tmp_path / 'run',
        '--network.builder', 'normed', '--optimization.steps', 6, '--optimization.batch_size', 4,
        '--data.validation_share', 0.3, '--no-report', processes=2)
    told = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['validation']
    with closing(open_source(stripes, classes='driving')) as source:
        held = FrameStore([labelled(source, driving)], (32, 48)).split_tail(0.3)[1]
        bundle = load_bundle(tmp_path / 'run' / 'bundle')
        alone = Validation(SegmentationTarget(bundle.spec.input), len(driving), _truth(held),
                           Processes())(load_module(bundle).eval())
    assert len(held) == 7  # of which one process looks at four
    assert told == alone.to_dict(driving.names)


def span_s(folder: Path) -> float:
    """Return the seconds from the first to the last file that was written."""
    times = [f.stat().st_mtime for f in folder.rglob('*') if f.is_file()]
    return max(times) - min(times)


def killed_again_and_again(words: list[object], out: Path, lasts_s: float,
                           kills: int = KILLS) -> int:
    """
    Run a command to its end, killing it at random moments; return how often it was alive.

    :param lasts_s: seconds that it writes for when nobody disturbs it.
    """
    rng = random.Random(1)
    hit, longest = 0, 60.0
    for _ in range(kills):
        child = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        # From when it writes: the seconds before, while libraries are imported, say nothing.
        begun = time.monotonic()
        seen = written(out)
        while child.poll() is None and time.monotonic() - begun < longest:
            if written(out) != seen:
                break
            time.sleep(0.01)
        # Anywhere in its work, and so that some of it is left for the last one.
        time.sleep(rng.uniform(0, 2 * lasts_s / (kills + 1)))
        hit += child.poll() is None
        child.send_signal(signal.SIGKILL)
        if child.wait() == 0:
            return hit  # it came to its end
    if not (out / 'bundle').is_dir():
        run(*words)
    return hit


def written(folder: Path) -> dict[Path, int]:
    """Return the files below a folder, with when each was written."""
    found = {}
    for file in folder.rglob('*') if folder.exists() else ():
        with suppress(OSError):
            if file.is_file():
                found[file] = file.stat().st_mtime_ns
    return found


def test_a_labelling_that_is_killed_ends_with_the_same_bytes(world: Path, stripes: Path,
                                                             tmp_path: Path) -> None:
    words: list[object] = ['label', '--teacher', world / 'teacher', stripes, '--engine',
                           'onnxruntime', '--shard-size', 1, '--out']
    run(*words, tmp_path / 'whole')
    assert killed_again_and_again([*words, tmp_path / 'cache'], tmp_path / 'cache',
                                  span_s(tmp_path / 'whole'))
    whole = {*content(tmp_path / 'whole'), LABELLING_LOG}
    left = [f for f in (tmp_path / 'cache').iterdir() if f.name not in whole]
    for file in left:
        assert file.name.startswith('.manifest.json.'), 'half-written shards go in the end'
        file.unlink()
    assert content(tmp_path / 'cache') == content(tmp_path / 'whole')


def test_a_training_that_is_killed_ends_with_the_same_weights(world: Path, stripes: Path,
                                                              tmp_path: Path) -> None:
    words: list[object] = ['train', world / 'recipe.yaml', '--data', stripes, '--no-report',
                           '--optimization.steps', 60 + 40 * KILLS, '--out']
    run(*words, tmp_path / 'whole')
    assert killed_again_and_again([*words, tmp_path / 'run'], tmp_path / 'run',
                                  span_s(tmp_path / 'whole'))
    one, two = weights(tmp_path / 'whole'), weights(tmp_path / 'run')
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_distillation_that_is_killed_ends_with_the_same_weights(
        world: Path, bare_stripes: Path, tmp_path: Path) -> None:
    run('label', '--teacher', world / 'teacher', bare_stripes, '--out', tmp_path / 'cache',
        '--engine', 'onnxruntime')
    kills = max(1, KILLS // 2)
    words: list[object] = ['distill', world / 'recipe.yaml', '--teacher', world / 'teacher',
                           '--cache', tmp_path / 'cache', '--data', bare_stripes, '--no-report',
                           '--optimization.steps', 20 + 40 * kills, '--out']
    run(*words, tmp_path / 'whole')
    assert killed_again_and_again([*words, tmp_path / 'run'], tmp_path / 'run',
                                  span_s(tmp_path / 'whole'), kills)
    one, two = weights(tmp_path / 'whole'), weights(tmp_path / 'run')
    assert all(torch.equal(one[name], two[name]) for name in one)
