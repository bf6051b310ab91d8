"""What our graphs are compared with, and that large pictures are compared piece by piece."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.classes import ClassSet
from kd_perception.networks.foreign import agreement
from kd_perception.networks.foreign.compose import bilinear_matrix
from kd_perception.networks.foreign.facts_output import OutputFacts


@pytest.mark.parametrize(('grid', 'size'), [
    ((8, 12), (32, 48)), ((9, 7), (9, 20)), ((40, 40), (17, 90)), ((1, 1), (8, 9))], ids=str)
def test_bands_of_a_picture_say_what_the_whole_says(
        grid: tuple, size: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    value = np.random.default_rng(0).normal(0, 3, (1, 4, *grid))
    down, across = (bilinear_matrix(a, b).astype(np.float64) for a, b in zip(grid, size))
    large = down @ (value[0] @ across.T)
    mask = large.argmax(0)
    share = np.exp(large) / np.exp(large).sum(0)
    clear = np.diff(np.sort(share, 0)[-2:], axis=0)[0] > 0.02
    out = OutputFacts('logits', 'segmentation', 'logits', 'nchw', (1, 4, *grid),
                      ClassSet.from_names('four', 'abcd'), False)
    tops = []
    upsampled = agreement._upsampled
    monkeypatch.setattr(agreement, '_BAND', 4 * size[1] * 3)  # three rows
    monkeypatch.setattr(agreement, '_upsampled', lambda x, to, rows: (
        tops.append(len(rows)), upsampled(x, to, rows))[1])
    ours = {'logits.onnx': {'logits': value}, 'deploy.onnx': {'mask': mask[None]}}
    found = agreement.compared('here', value, ours, out, size, 'net')
    assert max(tops) <= 3
    assert sum(tops) == size[0]
    assert found.pixels == 1
    assert found.clear == pytest.approx(clear.mean())
