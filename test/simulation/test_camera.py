from __future__ import annotations

import numpy as np
import pytest

from kd_perception.errors import SimulationError
from kd_perception.simulation.camera import axes_of, CameraModel, CameraPose


def test_focal_length_follows_from_the_field_of_view():
    camera = CameraModel.from_fov(640, 360, 80.0)
    assert camera.fx == camera.fy == pytest.approx(320 / np.tan(np.radians(40)))
    assert (camera.cx, camera.cy) == (320, 180)
    assert CameraModel.from_fov(100, 50, 90.0).fx == pytest.approx(50)


def test_the_clip_matrix_is_the_pinhole():
    camera = CameraModel.from_fov(640, 360)
    right, up, ahead = 2.0, 1.5, 10.0
    clip = camera.projection() @ [right, up, -ahead, 1]
    x, y = clip[:2] / clip[3]
    assert (x + 1) / 2 * 640 == pytest.approx(camera.cx + camera.fx * right / ahead)
    assert (1 - y) / 2 * 360 == pytest.approx(camera.cy - camera.fy * up / ahead)


def test_the_view_has_right_up_and_back_as_axes():
    pose = CameraPose(s=0., eye=np.array([1., 2., 3.]), heading=np.pi / 2, pitch=0.1)
    assert pose.axes() @ pose.axes().T == pytest.approx(np.eye(3))
    assert np.linalg.det(pose.axes()) == pytest.approx(1)
    # Driving along +y, a thing at larger x is to the right.
    seen = pose.view() @ [2., 12., 3., 1.]
    assert seen[0] == pytest.approx(1.0)
    assert seen[1] > 0            # pitched down: the horizon is above the axis
    assert seen[2] == pytest.approx(-10 * np.cos(.1))


@pytest.mark.parametrize('size', [(0, 100), (100, 5000)])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(SimulationError, match='camera size'):
        CameraModel.from_fov(*size)


@pytest.mark.parametrize('fov', [0., 180., float('nan')])
def test_an_impossible_field_of_view_is_refused(fov):
    with pytest.raises(SimulationError, match='field of view'):
        CameraModel.from_fov(640, 360, fov)


def test_roll_turns_the_camera_about_its_line_of_sight():
    level = CameraPose(s=0., eye=np.zeros(3), heading=.3, pitch=.1)
    rolled = CameraPose(s=0., eye=np.zeros(3), heading=.3, pitch=.1, roll=.2)
    assert rolled.axes()[2] == pytest.approx(level.axes()[2])
    assert rolled.axes()[0] @ level.axes()[0] == pytest.approx(np.cos(.2))
    assert rolled.axes() @ rolled.axes().T == pytest.approx(np.eye(3))


@pytest.mark.parametrize('back', [(0., 0., 1.), (0., 0., -2.), (1e-300, 0., 1.), (1., 0., 1.)])
def test_a_camera_may_look_straight_up_or_down_as_a_sun_in_the_zenith_does(back):
    axes = axes_of(np.array(back))
    assert axes @ axes.T == pytest.approx(np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1)
    assert axes[2] == pytest.approx(np.array(back) / np.linalg.norm(back))
    assert axes[0][2] == 0
