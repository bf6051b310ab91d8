"""Maps of what matters, on networks of which it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kd_perception.bundle import InputSpec, ModelBundle
from kd_perception.distillation.reports import attribution as a
from kd_perception.errors import ImageError
from kd_perception.evaluation.study import StudyFrame

SIZE = (24, 36)
CPU = torch.device('cpu')


def attended(module: nn.Module, count: int, spec: InputSpec | None = None) -> a.Attended:
    return a.Attended(module.eval(), spec or InputSpec(*SIZE), np.arange(count, dtype=np.uint8),
                      CPU)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


class Shifted(nn.Module):
    """Its class 0 at a column looks at the column six to the right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.roll(x.sum(1, keepdim=True), -6, 3)
        return torch.cat([seen, -seen, torch.zeros_like(seen)], 1)


def test_the_map_lies_where_the_network_looks_and_not_where_the_segment_is() -> None:
    segment = np.zeros(SIZE, bool)
    segment[6:12, 12:18] = True
    found = a.saliency(attended(Shifted(), 3), picture(), [(0, segment)], (4, 6))[0]
    assert found[1, 3] > 0
    assert found[1, 2] == 0
    found[1, 3] = 0
    assert not found.any()


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    network = attended(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(),
                                     nn.Conv2d(6, 4, 3, stride=2, padding=1)).double(), 4)
    image, segment = picture(1), np.zeros(SIZE, bool)
    segment[:, :20] = True
    pixels = a._normalised(network, image).double()

    def score(x: torch.Tensor) -> torch.Tensor:
        logits = network.module(x)
        weight = nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(segment)[None, None].double(), logits.shape[-2:])
        return ((logits[:, 2] - logits.mean(1)) * weight[:, 0]).sum()

    rng, step = np.random.default_rng(2), 1e-5
    exact = torch.autograd.functional.jacobian(score, pixels)
    for _ in range(5):
        where = (0, *(int(rng.integers(n)) for n in pixels.shape[1:]))
        up, down = pixels.clone(), pixels.clone()
        up[where] += step
        down[where] -= step
        slope = float((score(up) - score(down)).detach() / (2 * step))
        assert slope == pytest.approx(float(exact[where]), rel=1e-4, abs=1e-8)
    network.module.float()
    found = a.saliency(network, image, [(2, segment)], SIZE)[0]
    assert found == pytest.approx(exact.abs().sum(1)[0].numpy(), rel=1e-3, abs=1e-5)


def test_a_number_added_to_all_logits_changes_nothing() -> None:
    class Lifted(Shifted):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 5 * x[:, :1].square()

    segment = np.ones(SIZE, bool)
    plain, lifted = (a.saliency(attended(m, 3), picture(), [(0, segment)], (4, 6))[0]
                     for m in (Shifted(), Lifted()))
    assert lifted == pytest.approx(plain, rel=1e-4)


def test_maps_of_a_letterboxed_frame_lie_on_the_frame() -> None:
    spec = InputSpec(24, 48, resize='letterbox')
    segment = np.zeros((12, 12), bool)
    segment[:6] = True
    image = np.full((12, 12, 3), 90, np.uint8)
    found = a.saliency(attended(nn.Conv2d(3, 2, 1), 2, spec), image, [(0, segment)], (4, 4))[0]
    assert (found[:2] > 0).all()
    assert not found[2:].any()
    assert a.decision(attended(nn.Conv2d(3, 2, 1), 2, spec), image).shape == (24, 24)


def test_the_teacher_agrees_with_itself_and_less_with_random_weights(
        teacher: ModelBundle) -> None:
    own = a.attend(teacher, None, CPU)

    class Frames:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, position: int) -> StudyFrame:
            if position == 1:
                raise ImageError('broken')
            return StudyFrame(f'frame {position}', picture(position))

    pairs = a.compare_attention(own, own, Frames(), [0, 1, 2])
    assert {p.frame for p in pairs} == {'frame 0', 'frame 2'}
    assert len(pairs) <= 2 * a.CLASSES_PER_FRAME
    assert all(p.correlation == pytest.approx(1) for p in pairs)
    assert np.mean([p.reference for p in pairs]) < 0.9
    assert a.compare_attention(own, own, Frames(), [0, 2], limit_s=-1.0) == []


def test_random_weights_are_drawn_by_seed_and_leave_the_network_alone(
        teacher: ModelBundle) -> None:
    own = a.attend(teacher, None, CPU)
    before = [p.clone() for p in own.module.parameters()]
    state = torch.get_rng_state()
    one, two = (a.with_random_weights(own, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for x, y in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(x, y)
    assert any(not torch.equal(x, y) for x, y in zip(before, one.module.parameters(),
                                                     strict=True))
    assert all(torch.equal(x, y) for x, y in zip(before, own.module.parameters(), strict=True))
