from __future__ import annotations

import numpy as np

from kd_perception.classes import class_map_from_dict, ClassSet
from kd_perception.tasks.merged_classes import merged_outputs

SOURCE = ClassSet.from_names('five', ('car', 'bus', 'road', 'sky', 'ego'))
TARGET = ClassSet.from_names('two', ('road', 'vehicle'))
MAP = class_map_from_dict({'map': {'road': ['road'], 'vehicle': ['car', 'bus']},
                           'drop': ['sky'], 'ignore': ['ego']}, SOURCE, TARGET)


def said(probabilities: list[float]) -> tuple[int, float]:
    """Return class and confidence of one pixel."""
    logits = np.log(np.array(probabilities, np.float32)).reshape(1, 5, 1, 1)
    out = merged_outputs(logits, MAP, (1, 1))
    assert all(a.dtype == np.uint8 and a.shape == (1, 1, 1) for a in out.values())
    return int(out['mask'][0, 0, 0]), out['confidence'][0, 0, 0] / 255


def test_probabilities_add_up_by_hand() -> None:
    for probabilities, mask, confidence in (
            ([0.3, 0.28, 0.4, 0.01, 0.01], 1, 0.58 / 0.98),  # road alone is the likeliest
            ([0.1, 0.1, 0.2, 0.59, 0.01], 0, 0.5),           # of equals the first
            ([0.1, 0.15, 0.15, 0.59, 0.01], 1, 0.25 / 0.4),  # a dropped class shares
            ([0.2, 0.1, 0.1, 0.1, 0.5], 255, 0.75)):         # an ignored one silences
        got = said(probabilities)
        assert got[0] == mask, probabilities
        assert abs(got[1] - confidence) < 0.003


def test_sure_logits_stay_finite_and_come_at_full_size() -> None:
    logits = np.zeros((1, 5, 2, 3), np.float32)
    logits[0, 3] = 500.0  # all but certain of what is dropped
    logits[0, 1, :, 2] = 3.0
    out = merged_outputs(logits, MAP, (4, 6))
    assert out['mask'].shape == (1, 4, 6)
    assert (out['mask'][0, :, -1] == 1).all()
    assert (out['confidence'][0, :, -1] > 240).all()
