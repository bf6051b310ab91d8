from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from kd_perception.errors import ConfigError, SimulationError
from kd_perception.simulation.motion import camera_pose, poses
from kd_perception.simulation.parts import Tag
from kd_perception.simulation.scenario import load_scenario
from kd_perception.simulation.street import StreetSimulator

WEATHERS = ('clear', 'sunset', 'overcast', 'dense_fog', 'rain', 'night', 'night_rain', 'glare')
WORLDS = ('street', 'downtown', 'intersection', 'highway', 'suburb')
OF_OTHER_WORLDS = (Tag.WALL, Tag.FENCE, Tag.STATIC, Tag.GROUND, Tag.BRIDGE, Tag.GUARD_RAIL,
                   Tag.RIDER, Tag.BICYCLE)
STUFF = (Tag.ROAD, Tag.SIDEWALK, Tag.BUILDING, Tag.VEGETATION, Tag.TERRAIN, Tag.SKY,
         Tag.ROAD_LINE)


def test_a_frame_has_image_labels_instances_and_stamp(simulator):
    frame = simulator.render(1.25)
    assert frame.image.shape == (180, 320, 3)
    assert frame.labels.shape == frame.instances.shape == (180, 320)
    assert (frame.image.dtype, frame.labels.dtype, frame.instances.dtype) == (
        np.uint8, np.uint8, np.uint16)
    assert all(a.flags.c_contiguous for a in (frame.image, frame.labels, frame.instances))
    assert (frame.stamp_ns, frame.frame_id) == (1_250_000_000, 'camera')
    assert simulator.camera.width == 320
    assert simulator.renderer


def test_time_decides_in_whatever_order_it_is_asked(simulator):
    first, _, again = (simulator.render(t) for t in (12., 60., 12.))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.instances, again.instances)


def test_two_simulators_of_one_thread_do_not_disturb_each_other(simulator):
    alone = simulator.render(30.)
    with StreetSimulator('clear', seed=simulator.seed, width=320, height=180) as twin, \
            StreetSimulator('clear', seed=simulator.seed + 1, width=320, height=180) as other:
        assert np.array_equal(twin.render(30.).image, alone.image)
        stranger = other.render(30.)
        assert np.array_equal(simulator.render(30.).image, alone.image)
    assert (stranger.labels != alone.labels).mean() > .1
    assert np.array_equal(simulator.render(30.).image, alone.image)


@pytest.mark.parametrize('name', WEATHERS[1:])
def test_weather_changes_the_picture_but_not_the_truth(simulator, name):
    clear = simulator.render(21., depth=True)
    with StreetSimulator(name, seed=simulator.seed, width=320, height=180) as other:
        frame = other.render(21., depth=True)
    assert np.array_equal(frame.labels, clear.labels)
    assert np.array_equal(frame.instances, clear.instances)
    assert np.array_equal(frame.depth, clear.depth)
    assert np.abs(frame.image.astype(int) - clear.image).mean() > 8
    assert frame.image.std() > 5


@pytest.mark.parametrize('world', WORLDS[1:])
def test_every_world_keeps_its_truth_in_every_weather(world):
    frames = []
    for name in ('clear', 'night_rain', 'glare'):
        with StreetSimulator(name, seed=9, width=96, height=54, world=world) as street:
            frames.append(street.render(33., depth=True))
            again = street.render(33., depth=True)
            assert np.array_equal(frames[-1].image, again.image)
    for frame in frames[1:]:
        assert np.array_equal(frame.labels, frames[0].labels)
        assert np.array_equal(frame.instances, frames[0].instances)
        assert np.array_equal(frame.depth, frames[0].depth)
        assert np.abs(frame.image.astype(int) - frames[0].image).mean() > 8


def test_worlds_are_told_apart_by_what_is_in_them():
    share = {}
    for world in WORLDS:
        with StreetSimulator('clear', seed=9, width=160, height=90, world=world) as street:
            count = sum(np.bincount(street.render(t).labels.ravel(), minlength=29)
                        for t in (4., 20., 40.))
        share[world] = count / count.sum()
    assert share['highway'][Tag.GUARD_RAIL] > .005
    assert share['highway'][Tag.BUILDING] < .1 < share['intersection'][Tag.BUILDING]
    assert share['highway'][Tag.PEDESTRIAN] == 0 < share['downtown'][Tag.PEDESTRIAN]
    assert share['suburb'][Tag.FENCE] + share['suburb'][Tag.WALL] > share['street'][Tag.FENCE]
    assert share['intersection'][Tag.TRAFFIC_LIGHT] > 0
    assert all(share[w][Tag.ROAD] > .15 for w in WORLDS)


def test_depth_is_the_distance_to_the_road(simulator):
    """On flat road, depth follows from the height of the camera and the row."""
    frame = simulator.render(8., depth=True)
    pose = simulator._world.camera(8.)
    camera = simulator.camera
    depth = frame.depth
    assert depth.dtype == np.float32
    assert np.isinf(depth[frame.labels == Tag.SKY]).all()
    assert np.isfinite(depth[frame.labels != Tag.SKY]).all()
    rows, columns = np.nonzero(np.isin(frame.labels, (Tag.ROAD, Tag.ROAD_LINE)))
    down = (rows + .5 - camera.cy) / camera.fy
    expected = pose.eye[2] / (down * np.cos(pose.pitch) + np.sin(pose.pitch))
    near = expected < 60.
    assert near.sum() > 3000
    assert depth[rows, columns][near] == pytest.approx(expected[near], rel=.02)
    assert simulator.render(8.).depth is None


@pytest.mark.parametrize('change', ['shutter_s=0.05', 'drops=1', 'dirt=1', 'shot_noise=1',
                                    'auto_exposure=1'])
def test_what_the_camera_does_to_light_leaves_the_truth_alone(simulator, change):
    usual = simulator.render(40.)
    changed = load_scenario(f'clear,camera.{change}')
    with StreetSimulator(changed, seed=simulator.seed, width=320, height=180) as other:
        frame = other.render(40.)
    assert np.array_equal(frame.labels, usual.labels)
    assert np.array_equal(frame.instances, usual.instances)
    assert not np.array_equal(frame.image, usual.image)
    assert 1 < np.abs(frame.image.astype(int) - usual.image).mean() < 90


def test_a_camera_without_faults_is_the_usual_one(simulator):
    """The path with all effects at next to nothing agrees with the plain one."""
    scenario = load_scenario('clear,camera.dirt=0.000001')
    with StreetSimulator(scenario, seed=simulator.seed, width=320, height=180) as other:
        frame = other.render(40.)
    apart = np.abs(frame.image.astype(int) - simulator.render(40.).image)
    assert apart.max() <= 2


def test_where_the_camera_is_mounted_moves_the_picture(simulator):
    usual = simulator.render(40., depth=True)
    for change in ('height_m=2.5', 'pitch_rad=0.15', 'roughness=3', 'fov_deg=50'):
        scenario = load_scenario(f'clear,camera.{change}')
        with StreetSimulator(scenario, seed=simulator.seed, width=320, height=180) as other:
            frame = other.render(40., depth=True)
            if change.startswith('fov'):
                assert other.camera.fx == pytest.approx(160 / np.tan(np.radians(25)))
        assert .01 < (frame.labels != usual.labels).mean() < .9, change


def test_blur_smears_what_passes_and_not_what_is_far():
    images = []
    for shutter in ('0', '0.08'):
        scenario = load_scenario(f'clear,camera.shutter_s={shutter},grain=0')
        with StreetSimulator(scenario, seed=7, width=320, height=180, world='highway') as street:
            images.append(street.render(20.).image.astype(float).mean(axis=2))
    sharp, smeared = (np.abs(np.diff(i[140:], axis=0)).mean() for i in images)
    assert smeared < .8 * sharp


def test_crowds_are_crowded_and_far_things_small():
    people, seen = {}, {}
    for name in ('clear', 'crowd', 'far_small'):
        with StreetSimulator(name, seed=12, width=320, height=180, world='downtown') as street:
            rows = [street.render(t).instances_table() for t in (10., 25., 40.)]
        people[name] = sum((r.tags == Tag.PEDESTRIAN).sum() for r in rows)
        sizes = [r.pixels[np.isin(r.tags, (Tag.CAR, Tag.PEDESTRIAN))] for r in rows]
        seen[name] = np.concatenate(sizes).sum()
    assert people['crowd'] > 2 * people['clear']
    assert seen['far_small'] < .5 * seen['clear']


def test_a_palette_changes_colours_only():
    with StreetSimulator('clear', seed=9, width=96, height=54) as street:
        usual = street.render(20.)
    with StreetSimulator('clear,content.palette=1', seed=9, width=96, height=54) as street:
        other = street.render(20.)
    assert np.array_equal(usual.labels, other.labels)
    houses = usual.labels == Tag.BUILDING
    apart = np.abs(usual.image.astype(int) - other.image).mean(axis=2)
    assert apart[houses].mean() > 3 > apart[usual.labels == Tag.ROAD].mean()


def test_fog_hides_what_is_far_and_night_is_dark(simulator):
    contrast, light = {}, {}
    for name in ('clear', 'dense_fog', 'night'):
        with StreetSimulator(name, seed=simulator.seed, width=320, height=180) as other:
            image = other.render(21.).image.astype(float)
        far = np.diff(image[75:95, 130:190].mean(axis=2), axis=1)    # where the street goes
        contrast[name] = np.abs(far).mean()
        light[name] = image.mean()
    assert contrast['dense_fog'] < .6 * contrast['clear']
    assert light['night'] < .7 * light['clear']


def test_all_classes_appear_in_reasonable_shares():
    share = np.zeros(256)
    frames = 0
    for seed in (1, 2, 3):
        with StreetSimulator('clear', seed=seed, width=320, height=180) as simulator:
            for time_s in np.arange(2., 110., 18.):
                share += np.bincount(simulator.render(time_s).labels.ravel(), minlength=256)
                frames += 1
            assert simulator.drawn > 1000
    share /= frames * 320 * 180
    assert set(np.flatnonzero(share)) == {int(t) for t in Tag if t not in OF_OTHER_WORLDS}
    assert share[[int(t) for t in STUFF]].min() > .005
    assert share[Tag.PEDESTRIAN] > .004
    assert share[Tag.TRAFFIC_SIGN] > .0015
    assert share[Tag.TRAFFIC_LIGHT] > .0008
    assert share[Tag.POLE] > .003


def test_labels_lie_on_their_pixels(simulator):
    """White paint is bright where it is labelled, and not two pixels beside."""
    def step(shift: int) -> float:
        total = 0.
        for time_s in (3., 40., 55., 90.):
            frame = simulator.render(time_s)
            grey = frame.image[100:].mean(axis=2)
            labels = np.roll(frame.labels, shift, axis=1)[100:]
            total += grey[labels == Tag.ROAD_LINE].mean() - grey[labels == Tag.ROAD].mean()
        return total / 4
    assert step(0) > 40
    assert step(0) > 1.15 * max(step(2), step(-2))


def test_an_instance_has_one_class_and_things_have_instances(simulator):
    for time_s in (5., 33.):
        frame = simulator.render(time_s)
        things = np.isin(frame.labels, [Tag.POLE, Tag.TRAFFIC_LIGHT, Tag.TRAFFIC_SIGN,
                                        Tag.PEDESTRIAN, Tag.CAR, Tag.TRUCK])
        assert np.array_equal(frame.instances > 0, things)
        for ident in np.unique(frame.instances[things]):
            assert len(np.unique(frame.labels[frame.instances == ident])) == 1


def test_instances_are_where_the_camera_model_says(simulator, world):
    """Cars in the picture surround the projection of their place by the published intrinsics."""
    camera, checked = simulator.camera, 0
    table = world.instances
    for time_s in (4., 28., 75.):
        frame, pose = simulator.render(time_s), camera_pose(world.plan, time_s)
        now = poses(world.movers, time_s)
        for ident in np.unique(frame.instances[frame.labels == Tag.CAR]):
            rows, columns = np.nonzero(frame.instances == ident)
            mover = table.mover[table.ids[:, 1] == ident][0]
            if mover < 0 or len(rows) < 60 or columns.min() == 0 or columns.max() == 319:
                continue
            x, y = world.plan.world(now.s[mover], now.d[mover])
            right, up, back, _ = pose.view() @ [x, y, .7, 1.]
            column = camera.cx + camera.fx * right / -back
            row = camera.cy - camera.fy * up / -back
            assert columns.min() - 3 <= column <= columns.max() + 3
            assert rows.min() - 3 <= row <= rows.max() + 3
            checked += 1
    assert checked >= 3


def test_a_closed_simulator_and_a_foreign_thread_are_refused():
    simulator = StreetSimulator('clear', seed=1, width=64, height=36)
    failures: list[str] = []

    def use() -> None:
        for call in (lambda: simulator.render(0.), simulator.close):
            try:
                call()
            except SimulationError as error:
                failures.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(failures) == 2
    assert 'thread' in failures[0]
    simulator.render(0.)
    simulator.close()
    simulator.close()
    with pytest.raises(SimulationError, match='closed'):
        simulator.render(0.)


@pytest.mark.parametrize('time_s', [-1., 1e9, float('nan')])
def test_an_impossible_time_is_refused(simulator, time_s):
    with pytest.raises(SimulationError, match='time'):
        simulator.render(time_s)


def test_impossible_arguments_are_refused():
    with pytest.raises(SimulationError, match='seed'):
        StreetSimulator('clear', seed=-1)
    with pytest.raises(SimulationError, match='camera size'):
        StreetSimulator('clear', seed=1, width=2)
    with pytest.raises(ConfigError, match='hail'):
        StreetSimulator('hail', seed=1)
    with pytest.raises(ConfigError, match='moon'):
        StreetSimulator('clear', seed=1, world='moon')


def run_without(prelude: str, **environment: str) -> str:
    # Without a context there is nothing to keep triton from, half a gigabyte to be read first.
    code = ('import sys; sys.modules["triton"] = None\n'
            f'{prelude}\nfrom kd_perception.simulation.street import StreetSimulator\n'
            'from kd_perception.errors import SimulationError\n'
            'try:\n    StreetSimulator("clear", seed=1)\n'
            'except SimulationError as error:\n    print("told:", error)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=60)
    return done.stdout


def test_a_machine_without_egl_is_told_what_to_install(tmp_path):
    told = run_without('', __EGL_VENDOR_LIBRARY_DIRS=str(tmp_path))
    assert told.startswith('told:')
    assert 'libegl1 libgl1 libgl1-mesa-dri' in told
    assert len(told.splitlines()) == 1


def test_a_machine_without_moderngl_is_told_what_to_install():
    told = run_without('sys.modules["moderngl"] = None')
    assert told.startswith('told:')
    assert 'kd_perception[sim]' in told


def test_torch_can_be_imported_after_a_street_was_drawn():
    """The software rasteriser and torch's compiler each bring an LLVM of their own."""
    pytest.importorskip('torchvision')
    code = ("from kd_perception.simulation.street import StreetSimulator\n"
            "with StreetSimulator('clear', seed=1, width=64, height=48) as street:\n"
            "    street.render(0.0)\n"
            "import sys; assert 'torch' not in sys.modules\n"
            "import torchvision; print('alive')\n")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'alive\n'), done.stderr[-500:]
