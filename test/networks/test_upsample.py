from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kd_perception.networks import upsample as module
from kd_perception.networks.upsample import upsample


@pytest.mark.parametrize('size', [(10, 14), (13, 29), (5, 7), (160, 160), (3, 4)])
@pytest.mark.parametrize('work', [0.0, 1e9])
def test_values_and_gradients_are_those_of_interpolate(
        size: tuple[int, int], work: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_MATMUL_MAX_WORK', work)
    own = torch.rand(2, 3, 5, 7, requires_grad=True)
    other = own.detach().clone().requires_grad_()
    weights = torch.rand(2, 3, *size)
    got = upsample(own, size)
    expected = functional.interpolate(other, size=size, mode='bilinear', align_corners=False)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(own.grad, other.grad, atol=1e-5, rtol=1e-5)


def test_autocast_takes_no_digits() -> None:
    logits = torch.rand(1, 3, 6, 10)
    with torch.autocast('cpu', torch.bfloat16):
        got = upsample(logits, (24, 40))
    assert got.dtype == torch.float32
    assert torch.equal(got, upsample(logits, (24, 40)))


def test_what_inference_has_used_can_be_learned_with() -> None:
    with torch.inference_mode():
        upsample(torch.rand(1, 2, 7, 9), (21, 27))
    logits = torch.rand(1, 2, 7, 9, requires_grad=True)
    upsample(logits, (21, 27)).sum().backward()
    assert logits.grad is not None
