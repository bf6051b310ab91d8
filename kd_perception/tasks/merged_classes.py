"""
What a network behind a class map says: the probabilities of merged classes added up.

As the lesson of a distillation has it. A class that is dropped shares its probability among the
others; where the network decides for an ignored class, it says nothing. To map its decision is
something else: two likely classes that become one may together be likelier than the winner.
"""

from __future__ import annotations

import numpy as np

from kd_perception.classes import ClassMap, UNLABELLED
from kd_perception.tasks.soft_labels import enlarge


def merged_outputs(logits: np.ndarray, class_map: ClassMap,
                   size: tuple[int, int]) -> dict[str, np.ndarray]:
    """
    Return ``mask`` and ``confidence`` in the classes of the map, uint8 ``[1, H, W]`` each.

    :param logits: float32 ``[1, K, h, w]``.
    :param size: height and width of the result; logits are brought to it bilinearly.
    """
    scores = enlarge(logits[0], size)
    targets = class_map.table[:len(scores)]
    mapped = targets != UNLABELLED
    silent = ~mapped
    silent[list(class_map.dropped)] = False
    weights = np.exp(scores[mapped] - scores[mapped].max(0))
    # A map reaches every target class.
    merged = np.stack([weights[targets[mapped] == c].sum(0)
                       for c in range(targets[mapped].max() + 1)])
    share = merged.max(0) / merged.sum(0)
    mask = np.where(silent[scores.argmax(0)], UNLABELLED, merged.argmax(0))
    return {'mask': mask.astype(np.uint8)[None],
            'confidence': np.rint(255 * share).astype(np.uint8)[None]}
