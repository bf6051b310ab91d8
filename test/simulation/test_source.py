from __future__ import annotations

import numpy as np
import pytest

from kd_perception.errors import SimulationError
from kd_perception.frames import FrameSource
from kd_perception.simulation.source import SimulatorSource


@pytest.fixture
def source():
    out = SimulatorSource('clear', seed=24, frames=3, rate_hz=10., start_s=2., width=160,
                          height=90)
    yield out
    out.close()


def test_it_is_a_labelled_recording_of_carla_tags(source):
    assert isinstance(source, FrameSource)
    assert len(source) == 3
    assert source.has_labels
    assert source.label_classes is not None
    assert source.label_classes.names[24] == 'road_lines'
    frames = list(source)
    assert [f.stamp_ns for f in frames] == [2_000_000_000, 2_100_000_000, 2_200_000_000]
    assert [f.key.index for f in frames] == [0, 1, 2]
    assert all(f.labels is not None and f.labels.shape == f.image.shape[:2] for f in frames)
    assert source.bad_frames == 0


def test_access_at_random_equals_access_in_order(source):
    frames = list(source)
    assert np.array_equal(source[1].image, frames[1].image)
    assert np.array_equal(source[-1].image, frames[2].image)
    assert source[-1].key == frames[2].key
    with pytest.raises(IndexError):
        source[3]


def test_all_truth_of_a_frame_is_to_be_had(source):
    plain, deep = source.simulated(1), source.simulated(1, depth=True)
    assert plain.depth is None
    assert deep.depth is not None
    assert deep.depth.shape == deep.instances.shape == plain.labels.shape
    assert len(deep.instances_table()) > 3


def test_a_closed_source_can_be_used_anew(source):
    before = source[0]
    source.close()
    assert np.array_equal(source[0].image, before.image)


def test_the_fingerprint_tells_drives_apart(source):
    same = SimulatorSource('clear', seed=24, frames=9, rate_hz=10., start_s=2., width=160,
                           height=90)
    assert same.fingerprint == source.fingerprint
    for change in ({'seed': 25}, {'rate_hz': 20.}, {'start_s': 0.}, {'width': 320}):
        settings = {'seed': 24, 'frames': 3, 'rate_hz': 10., 'start_s': 2., 'width': 160,
                    'height': 90, **change}
        assert SimulatorSource('clear', **settings).fingerprint != source.fingerprint
    assert SimulatorSource('rain', seed=24, frames=3).fingerprint != source.fingerprint


def test_fingerprints_of_drives_that_were_labelled_stay(source):
    """Soft labels are found by them; a setting at its usual value must not change them."""
    for scenario, world, fingerprint in (('clear', 'street', 'fba3bbceff1aaae5'),
                                         ('crowd', 'downtown', '1db31f1809c030dd')):
        drive = SimulatorSource(scenario, seed=7, frames=1, world=world)
        assert drive.fingerprint == fingerprint
    few, many = (SimulatorSource(f'clear,content.riders={r}', seed=7, frames=1) for r in (1, 2))
    assert len({few.fingerprint, many.fingerprint, 'fba3bbceff1aaae5'}) == 3


@pytest.mark.parametrize('settings', [{'frames': 0}, {'frames': 1, 'rate_hz': 0.},
                                      {'frames': 1, 'start_s': -1.},
                                      {'frames': 1, 'start_s': float('nan')}])
def test_impossible_drives_are_refused(settings):
    with pytest.raises(SimulationError, match='frame'):
        SimulatorSource('clear', seed=1, **settings)
