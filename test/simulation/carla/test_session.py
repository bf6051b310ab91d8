"""A drive in a server that is faked at its boundary: what is set up, given, and taken back."""

from __future__ import annotations

import gc
import logging
import sys

import numpy as np
import pytest

from kd_perception.errors import ConfigError, SimulationError
from kd_perception.simulation.carla.session import CarlaSession, connect
from kd_perception.simulation.carla.spec import CarlaSpec
from kd_perception.simulation.carla.undo import spawn_into

SMALL = {'width': 64, 'height': 48, 'vehicles': 3, 'walkers': 2, 'timeout_s': 5.0}


def spec(**more):
    return CarlaSpec(**{**SMALL, **more})


def assert_as_found(server):
    """The world is as it was before, for whoever comes next."""
    assert not server.settings.synchronous_mode
    assert not server.settings.fixed_delta_seconds
    assert server.weather.cloudiness == 12.0
    assert not server.manager_synchronous
    assert server.actors == {}


def test_a_frame_is_of_one_step_and_has_truth(carla_server):
    carla_server.stale = 2  # images of earlier steps come first
    with CarlaSession(spec(instances=True, rate_hz=20.0)) as session:
        first, second = session.frame(), session.frame()
        assert carla_server.settings.synchronous_mode
        assert carla_server.settings.fixed_delta_seconds == pytest.approx(0.05)
        assert session.camera.fx == pytest.approx(32 / np.tan(np.radians(40)))
        assert (session.map, session.notes) == ('Town10HD_Opt', ())
    gc.collect()  # CARLA's images are gone now; ours must not be
    assert second.number == first.number + 1
    assert second.stamp_ns - first.stamp_ns == pytest.approx(50_000_000, abs=1)
    assert first.image.shape == (48, 64, 3)
    assert first.image.dtype == first.labels.dtype == np.uint8
    assert tuple(second.image[5, 5]) == (second.number % 256, 20, 10)
    assert list(second.labels[0, :32]) == [*range(29), 255, 255, 0]
    assert second.instances.dtype == np.uint16
    assert (second.instances == 7 + 256 * 3).all()
    assert_as_found(carla_server)


def test_who_is_on_the_road(carla_server):
    with CarlaSession(spec(seed=5, scenario='crowd')):
        actors = list(carla_server.actors.values())
        vehicles = [a for a in actors if a.blueprint.id.startswith('vehicle.')]
        people = [a for a in actors if a.blueprint.id.startswith('walker.')]
        controllers = [a for a in actors if a.blueprint.id == 'controller.ai.walker']
        sensors = [a for a in actors if a.blueprint.id.startswith('sensor.')]
        manager = carla_server.managers[0]
        assert len(vehicles) == 1 + round(3 * 1.4)
        assert [v.blueprint.values['role_name'] for v in vehicles].count('hero') == 1
        assert {v.autopilot for v in vehicles} == {manager.get_port()}
        assert len({v.place.location.x for v in vehicles}) == len(vehicles)
        assert len(people) == len(controllers) == 10
        assert all(c.started and c.parent in people for c in controllers)
        assert manager.seed == carla_server.pedestrians_seed == 5
        assert carla_server.manager_synchronous
        ego = next(v for v in vehicles if v.blueprint.values['role_name'] == 'hero')
        assert {s.parent for s in sensors} == {ego}
        assert len({tuple(sorted(s.blueprint.values.items())) for s in sensors}) == 1
        assert sensors[0].blueprint.values == {
            'image_size_x': '64', 'image_size_y': '48', 'fov': '80.0'}
        mounts = {(s.place.location.x, s.place.location.z, s.place.rotation.pitch)
                  for s in sensors}
        assert len(mounts) == 1
        assert mounts.pop()[2] < 0  # down, which is negative in CARLA
    # One batch, controllers before those whom they walk.
    assert sorted(carla_server.batches[0]) == sorted(
        a.id for a in actors if a not in sensors)
    assert_as_found(carla_server)


def places(server, seed):
    with CarlaSession(spec(seed=seed)):
        return [(a.blueprint.id, a.place.location.x) for a in server.actors.values()]


def test_a_seed_decides_who_stands_where(carla_server):
    assert places(carla_server, 1) == places(carla_server, 1)
    assert places(carla_server, 1) != places(carla_server, 2)


def test_what_there_is_no_place_for_is_told(carla_server):
    carla_server.spawn_points, carla_server.pavements = 3, False
    carla_server.taken = {1.0}
    with CarlaSession(spec()) as session:
        assert session.notes == (
            'There was place for 1 of 3 vehicles in the CARLA world.',
            'There was place for 0 of 2 pedestrians in the CARLA world.')
    carla_server.taken = {0.0, 1.0, 2.0}
    with pytest.raises(SimulationError, match='no free place for the own vehicle on Carla'):
        CarlaSession(spec())
    assert_as_found(carla_server)


def test_vehicles_of_others_are_told(carla_server):
    with CarlaSession(spec()):
        # A second session finds the server busy; a third one what the first has left.
        left = dict(carla_server.actors)
    carla_server.actors.update(left)
    for actor in left.values():
        actor.callback = None
    with CarlaSession(spec(walkers=0)) as session:
        assert session.notes == ('The CARLA world held 4 vehicles of others when the drive '
                                 'began.',)


def test_a_slow_rate_makes_several_steps_per_frame(carla_server):
    with CarlaSession(spec(rate_hz=5.0)) as session:
        first, second = session.frame(), session.frame()
        assert carla_server.settings.fixed_delta_seconds == pytest.approx(0.2 / 3)
    assert second.number == first.number + 3
    assert second.stamp_ns - first.stamp_ns == pytest.approx(200_000_000, abs=3)


def test_images_that_come_late_are_waited_for(carla_server):
    with CarlaSession(spec(vehicles=0, walkers=0)) as session:
        carla_server.late_s = 0.02
        assert session.frame().number == carla_server.number


def test_a_map_is_loaded_when_it_is_another(carla_server):
    with CarlaSession(spec(map='Town03')) as session:
        assert session.map == carla_server.map == 'Town03'
        assert max(carla_server.timeouts) == 120.0
        assert carla_server.timeouts[-1] == 5.0
    with CarlaSession(spec(map='Town03')):
        assert carla_server.calls.count('load_world') == 1
    with pytest.raises(SimulationError, match="no map 'Town99'; it has Town03, Town10HD_Opt"):
        CarlaSession(spec(map='Town99'))


def refuses(server, reason, **more):
    before = len(server.actors)
    with pytest.raises((SimulationError, ConfigError), match=reason) as caught:
        connect(spec(**more))
    assert '\n' not in str(caught.value)
    assert len(server.actors) == before
    assert 'apply_settings' not in server.calls
    assert 'set_weather' not in server.calls


def test_a_server_that_is_ticked_already_is_refused(carla_server):
    carla_server.settings.synchronous_mode = True
    refuses(carla_server, 'localhost:2000 is in synchronous mode already.*--no-sync')


def test_a_server_of_another_version_is_refused(carla_server):
    carla_server.version = '0.9.15-dirty'
    refuses(carla_server, r'is version 0.9.15-dirty, the client here is 0.9.16.*carla==0.9.15$')
    carla_server.version = '0.9.16-3-gabc'
    connect(spec())


def test_no_server_is_one_line(carla_server):
    def fail(number, name):
        raise RuntimeError('time-out of 5000ms while waiting for the simulator')
    carla_server.fail = fail
    refuses(carla_server, 'no CARLA server answers at pc:2002 within 5 s; start it .*another host',
            host='pc', port=2002)
    assert carla_server.asked == ('pc', 2002)

    def fail_otherwise(number, name):
        raise RuntimeError('rpc: broken')
    carla_server.fail = fail_otherwise
    refuses(carla_server, r'within 5 s \(rpc: broken\); start it')


def test_an_unknown_scenario_is_refused(carla_server):
    refuses(carla_server, 'hail.*or a preset of CARLA: .*ClearNoon', scenario='hail')


def test_somebody_else_who_ticks_is_noticed(carla_server):
    with CarlaSession(spec()) as session:
        carla_server.stray_ticks = 1
        with pytest.raises(SimulationError, match='another client ticks this server'):
            session.frame()
    assert_as_found(carla_server)


def test_a_camera_that_gives_nothing_ends_the_drive(carla_server):
    with CarlaSession(spec(timeout_s=0.05)) as session:
        carla_server.silent = {'semantic_segmentation'}
        with pytest.raises(SimulationError, match='semantic_segmentation gave no image of frame'):
            session.frame()
    assert_as_found(carla_server)


class Interrupted(BaseException):
    """Stands for Ctrl-C, which pytest would take for itself."""


def failing_at(position, error):
    def fail(number, name):
        if number == position:
            raise error
    return fail


def set_up_calls(server, drive):
    """Return how many calls a set-up makes, by name."""
    with CarlaSession(drive):
        calls = list(server.calls)
    server.calls.clear()
    return calls


@pytest.mark.parametrize('error', [RuntimeError('broken pipe'), Interrupted()])
def test_a_set_up_that_fails_anywhere_leaves_nothing(carla_server, error):
    drive = spec(map='Town03', instances=True, vehicles=1, walkers=1, rate_hz=12.0)
    calls = set_up_calls(carla_server, drive)
    assert len(calls) > 50
    for position in range(len(calls)):
        carla_server.calls.clear()
        carla_server.map = 'Town10HD_Opt'
        carla_server.fail = failing_at(position, error)
        expected = SimulationError if isinstance(error, RuntimeError) else Interrupted
        with pytest.raises(expected):
            CarlaSession(drive)
        assert_as_found(carla_server)


def test_an_interrupt_right_behind_a_spawn_leaves_no_actor():
    # As of the real client the call is C, behind which Python raises: before any assignment.
    spawn = {}.get

    def interrupt(frame, event, called):
        if event == 'c_return' and called.__name__ in ('get', 'extend'):
            raise Interrupted

    actors = []
    sys.setprofile(interrupt)
    try:
        with pytest.raises(Interrupted):
            spawn_into(actors, spawn, 'blueprint', 'actor')
    finally:
        sys.setprofile(None)
    assert actors == ['actor']


@pytest.mark.parametrize('error', [RuntimeError('gone'), Interrupted()])
def test_clean_up_goes_on_where_a_step_fails_and_hides_no_error(carla_server, caplog, error):
    set_up = len(set_up_calls(carla_server, spec()))
    with CarlaSession(spec()):
        begin = len(carla_server.calls)
    steps = carla_server.calls[begin:]
    assert begin == set_up
    assert steps == ['stop', 'destroy'] * 2 + ['stop'] * 2 + [
        'apply_batch_sync', 'apply_settings', 'traffic_manager.set_synchronous_mode',
        'set_weather']
    for position, name in enumerate(steps):
        caplog.clear()
        carla_server.calls.clear()
        carla_server.actors.clear()
        carla_server.settings.synchronous_mode = False
        carla_server.weather.cloudiness = 12.0
        carla_server.fail = failing_at(begin + position, error)
        with pytest.raises(ZeroDivisionError), CarlaSession(spec()):  # noqa: PT012
            raise ZeroDivisionError
        assert 'was not left as it was found' in caplog.text
        assert carla_server.settings.synchronous_mode == (name == 'apply_settings')
        assert carla_server.manager_synchronous == name.startswith('traffic_manager')
        assert bool(carla_server.actors) == (name in ('apply_batch_sync', 'destroy'))


def test_a_server_that_goes_away_does_not_hold_up_the_end(carla_server, caplog):
    caplog.set_level(logging.WARNING)
    with CarlaSession(spec()) as session:
        def fail(number, name):
            raise RuntimeError('time-out of 5000ms while waiting for the simulator')
        carla_server.fail = fail
        begin = len(carla_server.calls)
        with pytest.raises(SimulationError, match='localhost:2000: time-out'):
            session.frame()
    # The tick, the first step, and whether it is alive at all: three time-outs, not ten.
    assert carla_server.calls[begin:] == ['tick', 'stop', 'get_server_version']
    assert carla_server.timeouts[-1] <= 3.0
    assert 'does not answer any more' in caplog.text


def test_a_drive_that_is_forgotten_is_closed(carla_server):
    session = CarlaSession(spec())
    assert carla_server.settings.synchronous_mode
    del session
    gc.collect()
    assert_as_found(carla_server)


def test_closing_twice_takes_back_once(carla_server):
    session = CarlaSession(spec())
    session.close()
    done = len(carla_server.calls)
    session.close()
    assert len(carla_server.calls) == done
