"""Frames of any size into a network's input, and back."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.bundle import InputSpec
from kd_perception.tasks.placement import fill_color, fit, network_input, place
from kd_perception.tasks.segmentation import decode

MEAN = (0.2, 0.4, 0.6)
SIZES = [(90, 160), (64, 64), (30, 100), (100, 30), (200, 300), (7, 5)]


def spec(resize: str, order: str = 'rgb') -> InputSpec:
    return InputSpec(64, 96, channel_order=order, mean=MEAN, resize=resize)


def test_stretch_fills() -> None:
    where = place((90, 160), spec('stretch'))
    assert where.whole
    image = np.zeros((90, 160, 3), np.uint8)
    assert fit(image, spec('stretch')).shape == (64, 96, 3)


@pytest.mark.parametrize('size', SIZES)
def test_letterbox_keeps_the_aspect_in_the_middle(size: tuple[int, int]) -> None:
    where = place(size, spec('letterbox'))
    assert where.height == 64 or where.width == 96
    assert abs(where.height / where.width - size[0] / size[1]) < 0.02 * size[0] / size[1] + (
        1 / min(where.height, where.width))
    assert abs(2 * where.top + where.height - 64) <= 1
    assert abs(2 * where.left + where.width - 96) <= 1


def test_pad_keeps_pixels_and_shrinks_only_what_is_too_large() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    got = fit(image, spec('pad'))
    assert np.array_equal(got[:60, :90], image)
    assert (got[60:] == fill_color(spec('pad'))).all()
    assert fill_color(spec('pad')) == (51, 102, 153)
    where = place((128, 160), spec('pad'))
    assert (where.top, where.left, where.height, where.width) == (0, 0, 64, 80)


@pytest.mark.parametrize('resize', ['stretch', 'letterbox', 'pad'])
def test_order_of_channels(resize: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    rgb = network_input(image, spec(resize))
    bgr_spec = InputSpec(64, 96, channel_order='bgr', mean=MEAN[::-1], resize=resize)
    got = network_input(image, bgr_spec)
    assert np.array_equal(got, rgb[..., ::-1])
    assert np.array_equal(got, fit(np.ascontiguousarray(image[..., ::-1]), bgr_spec))
    assert got.flags.c_contiguous


@pytest.mark.parametrize('resize', ['letterbox', 'pad'])
@pytest.mark.parametrize('size', [*SIZES[:4], (64, 80)])
def test_what_a_network_marks_comes_back_where_it_was(resize: str, size: tuple[int, int]) -> None:
    """A picture with a bright quarter goes in; its mask comes out at the picture's size."""
    image = np.zeros((*size, 3), np.uint8)
    image[:size[0] // 2, :size[1] // 2] = 255
    where = place(size, spec(resize))
    mask = (fit(image, spec(resize))[None, ..., 0] > 127).astype(np.uint8)
    result = decode({'mask': mask, 'confidence': mask}, output_size=size, placement=where)
    wrong = result.mask != (image[..., 0] > 127)
    assert wrong.mean() < 3 / min(size)
    # At the network's size the bars are gone.
    assert decode({'mask': mask, 'confidence': mask}, placement=where).mask.shape == (
        where.height, where.width)


@pytest.mark.parametrize('resize', ['letterbox', 'pad'])
@pytest.mark.parametrize('stride', [1, 4, 8, 32])
def test_logits_are_cut_to_the_frame(resize: str, stride: int) -> None:
    """A plane that rises with the column rises over the frame alone after the cut."""
    where = place((64, 50), spec(resize))
    columns = (np.arange(96 // stride) + 0.5) * stride
    logits = np.broadcast_to(columns, (2, 64 // stride, 96 // stride)).astype(np.float32)
    cut = where.crop_grid(logits)
    assert cut.shape[0] == 2
    assert abs(cut.shape[2] - where.width / stride) <= 0.51
    cell = where.width / cut.shape[2]
    expected = where.left + (np.arange(cut.shape[2]) + 0.5) * cell
    inside = (expected > stride) & (expected < 96 - stride)  # at the edge cells repeat
    np.testing.assert_allclose(cut[0, 0][inside], expected[inside], atol=0.03 * stride + 1e-3)
