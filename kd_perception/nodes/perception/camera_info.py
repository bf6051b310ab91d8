"""
Intrinsics of the image that a mask is.

REP-104: ``k`` and ``p`` are of the full resolution of the camera; ``roi`` and ``binning`` say
which part of it an image shows. What goes out describes the mask as an image of its own, without
both, so that it can be projected by anybody, also by those who look at ``k`` alone.
"""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from kd_perception.nodes.perception.region import Window


def mask_camera_info(info: CameraInfo, header: Header, image_size: tuple[int, int],
                     mask_size: tuple[int, int], window: Window | None = None) -> CameraInfo:
    """
    Return the intrinsics of a mask.

    :param info: of the image, as its driver published it.
    :param header: of the mask.
    :param image_size: height and width of the image that came with ``info``.
    :param mask_size: height and width of the mask.
    :param window: part of the image that the mask shows; None for all.
    """
    height, width = image_size
    seen = window or Window(0, 0, width, height)
    roi = info.roi
    # Pixels of the full resolution that the image shows, and per pixel of the image: where it was
    # binned or resized on the way, that is more than one.
    shown_width, shown_height = roi.width or info.width, roi.height or info.height
    step_x, step_y = shown_width / width, shown_height / height
    left, top = roi.x_offset + seen.x * step_x, roi.y_offset + seen.y * step_y
    x = mask_size[1] / (seen.width * step_x) if shown_width else 1.0
    y = mask_size[0] / (seen.height * step_y) if shown_height else 1.0
    move = np.array([[x, 0.0, -left * x], [0.0, y, -top * y], [0.0, 0.0, 1.0]])
    out = CameraInfo(header=header, height=mask_size[0], width=mask_size[1],
                     distortion_model=info.distortion_model)
    out.d, out.r = info.d, info.r
    out.k = (move @ np.reshape(info.k, (3, 3))).ravel().tolist()
    out.p = (move @ np.reshape(info.p, (3, 4))).ravel().tolist()
    out.roi.do_rectify = roi.do_rectify
    return out
