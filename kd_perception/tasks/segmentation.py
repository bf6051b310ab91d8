"""Segmentation: from an engine's outputs to a mask and a confidence of the wanted size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.errors import EngineError
from kd_perception.imaging import resize_labels
from kd_perception.tasks.placement import Placement


@dataclass(frozen=True)
class SegmentationResult:
    """
    What a segmentation network says about one image.

    :param mask: uint8 ``[H, W]`` class ids, 255 = unlabelled.
    :param confidence: uint8 ``[H, W]``, ``round(255 * max softmax)``.
    """

    mask: np.ndarray
    confidence: np.ndarray


def decode(outputs: Mapping[str, np.ndarray], *, confidence_threshold: float = 0.0,
           output_size: tuple[int, int] | None = None,
           placement: Placement | None = None) -> SegmentationResult:
    """
    Return the result for the one image of a batch of one.

    :param outputs: ``mask`` and ``confidence``, uint8 ``[1, H, W]``, as an engine returns them.
    :param confidence_threshold: 0 to 1; pixels less sure than it become 255.
    :param output_size: height and width of the result; nearest neighbour. None keeps the size.
    :param placement: where the frame lay in the input; the rest is cut off. None: everywhere.
    :raises EngineError: when the outputs are not those of one segmented image.
    """
    return decode_batch(outputs, confidence_threshold=confidence_threshold,
                        output_size=output_size, placement=placement, expected=1)[0]


def decode_batch(outputs: Mapping[str, np.ndarray], *, confidence_threshold: float = 0.0,
                 output_size: tuple[int, int] | None = None,
                 placement: Placement | None = None,
                 expected: int | None = None) -> list[SegmentationResult]:
    """
    Return one result per image of a batch; see :func:`decode`.

    :param expected: number of images that the batch must have.
    """
    missing = {'mask', 'confidence'} - set(outputs)
    if missing:
        raise EngineError(f'outputs {sorted(outputs)} lack {sorted(missing)}: is this the deploy '
                          'graph of a segmentation model?')
    masks, confidences = outputs['mask'], outputs['confidence']
    if masks.ndim != 3 or masks.shape != confidences.shape or masks.dtype != np.uint8:
        raise EngineError(f'mask {masks.dtype}{list(masks.shape)} and confidence '
                          f'{list(confidences.shape)} are not uint8 [N, H, W]')
    if expected is not None and len(masks) != expected:
        raise EngineError(f'{len(masks)} masks where {expected} was expected')
    # The smallest byte that is at least the threshold, so that 0.5 means 0.5 and not 127 / 255.
    limit = int(np.ceil(confidence_threshold * 255.0 - 1e-9))
    results = []
    for mask, confidence in zip(masks, confidences, strict=True):
        if placement is not None:
            mask, confidence = placement.crop(mask), placement.crop(confidence)
        if limit > 0:
            # Before resizing, where pixels are fewer; nearest neighbour commutes with it.
            mask = np.where(confidence < limit, np.uint8(UNLABELLED), mask)
        if output_size is not None and output_size != mask.shape:
            mask = resize_labels(mask, *output_size)
            confidence = cv2.resize(confidence, (output_size[1], output_size[0]),
                                    interpolation=cv2.INTER_NEAREST_EXACT)
        results.append(SegmentationResult(mask=mask, confidence=confidence))
    return results
