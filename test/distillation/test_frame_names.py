from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_perception.bags.source import open_source
from kd_perception.distillation.frame_names import frame_name
from kd_perception.frames import Frame, FrameKey


def test_a_frame_of_a_bag_has_its_topic_its_place_and_its_stamp() -> None:
    bag: Any = SimpleNamespace(name='drive.mcap')
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 1_712_345_678_000_000_042, 0,
                  FrameKey('13771df', '/camera/image', 6))
    assert frame_name(bag, frame) == 'drive.mcap /camera/image #6 at 1712345678.000000042'


def test_a_picture_of_a_folder_has_the_name_of_its_file(bare_stripes: Path) -> None:
    source = open_source(bare_stripes, rate_hz=5)
    frame = source[1]
    assert frame.key.index > 1
    assert frame_name(source, frame).startswith(f'bare {frame.key.index:04d}.png at ')
