from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kd_perception.bundle import InputSpec
from kd_perception.distillation.augmentation import View
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.losses import build_losses, loss_kinds
from kd_perception.distillation.losses.kl import kl_divergence
from kd_perception.distillation.losses.loss import FEATURES
from kd_perception.distillation.losses.weighting import PixelWeighting
from kd_perception.distillation.processes import Processes, Stopped
from kd_perception.distillation.recipe import WeightingRecipe
from kd_perception.distillation.targets.segmentation import SegmentationTarget, Validation
from kd_perception.distillation.teachers.average import AverageTeacher
from kd_perception.distillation.teachers.cached import CachedTeacher, warp_logits
from kd_perception.distillation.teachers.teacher import Lesson, view_grid
from kd_perception.tasks.metrics import ConfusionMatrix

SPEC = InputSpec(16, 24)


class Painter(nn.Module):
    """A network without weights: the logits are the picture's colours, at half the size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(x, 2)


def batch(soft: torch.Tensor | None = None, labels: int = 255) -> Batch:
    images = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    theta = torch.from_numpy(View(0, 0, 16, 24).theta(16, 24)).repeat(2, 1, 1)
    return Batch(('a', 'b'), images, torch.full((2, 16, 24), labels, dtype=torch.uint8), theta,
                 soft)


def taught(**losses: dict) -> SegmentationTarget:
    return SegmentationTarget(SPEC, losses=build_losses(losses), teacher=CachedTeacher((16, 24)))


def test_normalises_as_the_bundle_says() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3)).astype(np.uint8)
    expected = (images / 255.0 - SPEC.mean) / SPEC.std
    got = SegmentationTarget(SPEC).normalise(torch.from_numpy(images))
    np.testing.assert_allclose(got.permute(0, 2, 3, 1), expected, atol=1e-5)
    swapped = SegmentationTarget(InputSpec(16, 24, channel_order='bgr', mean=(0, 0, 0),
                                           std=(1, 1, 1))).normalise(torch.from_numpy(images))
    np.testing.assert_allclose(swapped.permute(0, 2, 3, 1), images[..., ::-1] / 255, atol=1e-6)


def test_a_student_that_says_what_the_teacher_says_has_no_divergence() -> None:
    target = taught(kl={'temperature': 2, 'weight': 3})
    images = batch().images
    same = Painter()(target.normalise(images))
    assert float(target.losses(Painter(), batch(same))['kl']) == pytest.approx(0, abs=1e-6)
    other = torch.randn(same.shape)
    expected = 3 * float(kl_divergence(same, other, 2.0))
    assert float(target.losses(Painter(), batch(other))['kl']) == pytest.approx(expected, rel=1e-5)


def test_terms_are_those_that_the_recipe_weighs() -> None:
    soft = torch.randn(2, 3, 8, 12)
    plain = SegmentationTarget(SPEC).losses(Painter(), batch(labels=1))
    assert set(plain) == {'cross_entropy'}
    both = taught(kl={}, cross_entropy={'weight': 0.5})
    terms = both.losses(Painter(), batch(soft, labels=1))
    assert set(terms) == {'kl', 'cross_entropy'}
    assert float(terms['cross_entropy']) == pytest.approx(0.5 * float(plain['cross_entropy']))
    only = taught(kl={'weight': 0}, cross_entropy={})
    assert set(only.losses(Painter(), batch(soft, labels=1))) == {'cross_entropy'}


class Lecturer:
    """A teacher that looks at nothing and says what it was told to, logits and all."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.lesson = Lesson(logits, torch.ones(len(logits), *logits.shape[2:], dtype=torch.bool))

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        return self.lesson


def test_pixels_weigh_what_the_recipe_says() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 12)
    recipe = WeightingRecipe(class_balance=1.0)
    weighted = SegmentationTarget(SPEC, losses=build_losses({'kl': {}}), teacher=Lecturer(logits),
                                  weighting=PixelWeighting(recipe, np.array([90, 9, 1])))
    factors = torch.tensor([1.0, 10.0, 50.0])[logits.argmax(1)]
    expected = kl_divergence(Painter()(weighted.normalise(batch().images)), logits, 2.0,
                             weights=factors)
    assert float(weighted.losses(Painter(), batch())['kl']) == pytest.approx(float(expected),
                                                                             rel=1e-4)


def test_a_finer_lesson_still_moves_the_student() -> None:
    # Not 1x1: with strides and a few channels, channels last, torch 2.12 writes beyond its memory
    # on processors with AVX2 alone.
    network = nn.Conv2d(3, 3, 3, stride=4, padding=1)
    terms = taught(kl={}).losses(network, batch(torch.randn(2, 3, 16, 24)))
    terms['kl'].backward()
    assert network.weight.grad is not None
    assert float(network.weight.grad.abs().max()) > 0


def test_logits_beyond_the_frame_do_not_count() -> None:
    logits = torch.randn(1, 3, 8, 12)
    theta = torch.from_numpy(View(-16, 0, 48, 24).theta(16, 24))[None]
    warped, valid = warp_logits(logits, view_grid(theta, (24, 12)))
    assert valid[0, 8:16].all()
    assert not valid[0, :8].any()
    assert not valid[0, 16:].any()
    np.testing.assert_allclose(warped[0, :, 8:16], logits[0], atol=1e-5)


def test_validation_counts_every_pixel_and_keeps_the_mode() -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :12, 0] = 255
    image[:, 12:, 2] = 255
    truth = np.zeros((16, 24), np.uint8)
    truth[:, 12:] = 2
    truth[0] = 255
    network = Painter().train()
    validation = Validation(SegmentationTarget(SPEC), 3, lambda part: [(image, truth)] * 2,
                            Processes())
    matrix = validation(network)
    assert network.training
    assert matrix.pixels == 2 * 15 * 24
    assert matrix.mean_iou() > 0.9
    with pytest.raises(KeyboardInterrupt):
        validation(network, lambda: True)
    assert network.training


def test_processes_divide_the_frames_and_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 256, (16, 24, 3), np.uint8),
              rng.choice(np.array([0, 1, 2, 255], np.uint8), (16, 24))) for _ in range(5)]
    looked: list[int] = []

    def frames(part: Processes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for place in part.own(len(pairs)):
            looked.append(place)
            yield pairs[place]

    def counts(part: Processes) -> ConfusionMatrix:
        return Validation(SegmentationTarget(SPEC), 3, frames, part)(Painter())

    whole = counts(Processes())
    looked.clear()
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda tensor: None)
    parts = [counts(Processes(rank, 2)) for rank in (0, 1)]
    assert looked == [0, 2, 4, 1, 3]
    assert (parts[0].counts + parts[1].counts).tolist() == whole.counts.tolist()
    assert (parts[0].on_void + parts[1].on_void).tolist() == whole.on_void.tolist()
    assert whole.on_void.any()
    # The other one was asked to stop.
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda tensor: tensor[-1].add_(1))
    with pytest.raises(Stopped):
        counts(Processes(0, 2))


def test_a_loss_counts_in_its_part_of_the_run() -> None:
    target = taught(kl={'end': 0.5}, cross_entropy={'start': 0.5})
    lesson = batch(torch.randn(2, 3, 8, 12), labels=1)
    assert set(target.losses(Painter(), lesson, 0.49)) == {'kl'}
    assert set(target.losses(Painter(), lesson, 0.5)) == {'cross_entropy'}
    assert set(target.losses(Painter(), lesson, 1.0)) == {'cross_entropy'}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_only_the_network_computes_in_less_than_float32(dtype: torch.dtype) -> None:
    # A view that shows a part of the frame at an odd place: in bf16 it would lie elsewhere.
    theta = torch.from_numpy(View(3, 5, 9, 13).theta(16, 24)).repeat(2, 1, 1)
    torch.manual_seed(0)
    shown = replace(batch(9 * torch.randn(2, 3, 8, 12), labels=1), theta=theta)
    target = SegmentationTarget(
        SPEC, losses=build_losses({name: {} for name, kind in loss_kinds().items()
                                   if kind.looks_at != FEATURES}),
        teacher=CachedTeacher((16, 24)), weighting=PixelWeighting(
            WeightingRecipe(boundary=1.0, confidence=0.5, class_balance=0.5),
            np.array([90, 9, 1])))
    exact = target.losses(Painter(), shown)
    with torch.autocast('cpu', dtype=dtype):
        terms = target.losses(Painter(), shown)
    assert len(terms) == 9
    assert terms == exact


def test_the_averaged_network_computes_as_the_student() -> None:
    seen = []

    class Spy(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(super().forward(x))
            return seen[-1]

    teacher = AverageTeacher('bf16')
    teacher.follow(Spy(3, 3, 1), SegmentationTarget(SPEC).normalise)
    asked = batch()
    lesson = teacher.teach(replace(asked, calm=asked.images), (16, 24))
    assert (seen[0].dtype, lesson.logits.dtype) == (torch.bfloat16, torch.float32)
