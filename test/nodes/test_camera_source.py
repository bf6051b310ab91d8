"""Pictures of the street as the camera node takes them."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.errors import ConfigError, SimulationError
from kd_perception.nodes.camera_source import StreetPictures

SETTINGS = {'seed': 7, 'rate_hz': 10., 'width': 64, 'height': 36, 'frame_id': 'front'}


def test_the_scenario_decides_world_and_intrinsics():
    source = StreetPictures('clear,world=highway,camera.fov_deg=60', **SETTINGS)
    assert source.name == 'simulator:clear:highway:7'
    assert source.intrinsics is not None
    assert source.intrinsics.fx == pytest.approx(32 / np.tan(np.radians(30)))
    try:
        picture = source.picture(50)
    except SimulationError as error:
        pytest.skip(str(error))
    finally:
        source.close()
    assert (picture.stamp_ns, picture.frame_id) == (5_000_000_000, 'front')
    assert picture.labels is not None
    assert 28 in picture.labels                 # guard rails


def test_an_unknown_world_is_refused():
    with pytest.raises(ConfigError, match='moon'):
        StreetPictures('clear,world=moon', **SETTINGS)
