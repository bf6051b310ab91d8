from __future__ import annotations

import pytest

from kd_perception.errors import ConfigError
from kd_perception.simulation.settings import CameraSettings, Content, read_group


def test_what_is_left_out_keeps_its_default():
    assert read_group(CameraSettings, {}, 'x') == CameraSettings()
    changed = read_group(CameraSettings, {'fov_deg': 60}, 'x')
    assert (changed.fov_deg, changed.height_m) == (60.0, CameraSettings().height_m)


def test_the_usual_camera_is_ideal_and_a_wet_one_is_not():
    assert CameraSettings().ideal
    for name in ('drops', 'dirt', 'flare', 'shutter_s', 'auto_exposure', 'shot_noise'):
        assert not CameraSettings(**{name: .05}).ideal
    assert CameraSettings(fov_deg=60., height_m=2., roughness=1.).ideal


@pytest.mark.parametrize(('data', 'told'), [
    ({'fovdeg': 60}, r"unknown keys \['fovdeg'\]; known: fov_deg"),
    ({'fov_deg': 200}, 'x.fov_deg: 200 must be 20 to 130'),
    ({'fov_deg': 'wide'}, "x.fov_deg: needs a number, found 'wide'"),
    ({'fov_deg': True}, 'needs a number'),
    ({'fov_deg': float('nan')}, 'out of range'),
    ([1], 'found list'),
])
def test_wrong_values_are_told_with_their_key_and_range(data, told):
    with pytest.raises(ConfigError, match=told):
        read_group(CameraSettings, data, 'x')


def test_content_is_made_of_factors():
    assert read_group(Content, {'people': 3}, 'x').people == 3.0
    with pytest.raises(ConfigError, match='x.people: -1 must be 0 to 8'):
        read_group(Content, {'people': -1}, 'x')
    assert read_group(Content, {}, 'x').riders == 0.0
    with pytest.raises(ConfigError, match='x.riders: 9 must be 0 to 8'):
        read_group(Content, {'riders': 9}, 'x')
