from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kd_perception.errors import SimulationError
from kd_perception.simulation.instances import tabulate
from kd_perception.simulation.parts import Tag
from kd_perception.simulation.street import SimulatedFrame, StreetSimulator


@pytest.fixture(scope='module')
def downtown():
    with StreetSimulator('clear', seed=12, width=320, height=180, world='downtown') as out:
        yield out


def alone(simulator: StreetSimulator, frame: SimulatedFrame, ident: int,
          time_s: float) -> np.ndarray:
    """Return bool ``[H, W]``: the pixels of one thing when nothing else is drawn."""
    def only(rows: np.ndarray) -> np.ndarray:
        return rows[rows[:, 14].round() == ident]
    assert frame.scene is not None
    batches = [replace(b, near=only(b.near), far=only(b.far), shadow=b.shadow[:0])
               for b in frame.scene.batches]
    drawn = simulator._renderer.draw(batches, frame.scene.pose, time_s, (0., 0.))
    return drawn.instances == ident


def test_ids_tags_counts_and_boxes_are_those_of_the_pictures(downtown):
    frame = downtown.render(6.)
    rows = frame.instances_table()
    assert set(rows.ids) == set(np.unique(frame.instances)) - {0}
    assert len(rows) > 10
    for ident, tag, count, box in zip(rows.ids, rows.tags, rows.pixels, rows.boxes):
        at = np.argwhere(frame.instances == ident)
        assert len(at) == count
        assert set(frame.labels[frame.instances == ident]) == {tag}
        (top, left), (bottom, right) = at.min(0), at.max(0) + 1
        assert list(box) == [left, top, right, bottom]
    assert (rows.full_boxes[:, :2] <= rows.boxes[:, :2]).all()
    assert (rows.full_boxes[:, 2:] >= rows.boxes[:, 2:]).all()


def test_the_visible_share_is_what_drawing_the_thing_alone_shows(downtown):
    checked = hidden = 0
    for time_s in (6., 31.):
        frame = downtown.render(time_s)
        rows = frame.instances_table()
        for ident, pixels, share in zip(rows.ids, rows.pixels, rows.visible):
            whole = int(alone(downtown, frame, int(ident), time_s).sum())
            if whole < 60:
                continue
            checked += 1
            hidden += share < .6
            # Half a pixel along the outline is a tenth of the smallest things.
            assert share == pytest.approx(pixels / whole, abs=.08), ident
    assert checked > 12
    assert hidden >= 2


def test_positions_project_into_their_boxes_and_distance_is_their_length(downtown):
    camera, checked = downtown.camera, 0
    for time_s in (6., 50.):
        rows = downtown.render(time_s).instances_table()
        for at, box, tag, cut in zip(rows.positions, rows.full_boxes, rows.tags, rows.truncated):
            if tag not in (Tag.CAR, Tag.PEDESTRIAN) or cut:
                continue
            x, y = camera.cx + camera.fx * at[0] / at[2], camera.cy + camera.fy * at[1] / at[2]
            assert box[0] - 2 <= x <= box[2] + 2
            assert box[1] - 2 <= y <= box[3] + 2
            checked += 1
        assert rows.distance_m == pytest.approx(np.linalg.norm(rows.positions, axis=1))
    assert checked > 8


def test_depth_agrees_with_the_distance_of_things(downtown):
    apart = []
    for time_s in (6., 50.):
        frame = downtown.render(time_s, depth=True)
        rows = frame.instances_table()
        assert frame.depth is not None
        # People are thin: what is seen of one lies at the depth of the middle.
        for ident, at in zip(rows.ids[rows.tags == Tag.PEDESTRIAN],
                             rows.positions[rows.tags == Tag.PEDESTRIAN]):
            apart.append(np.median(frame.depth[frame.instances == ident]) - at[2])
    assert len(apart) > 30
    assert np.abs(apart).max() < .5


LOOKALIKES = {
    'poster_person': {Tag.BUILDING, Tag.STATIC}, 'poster_car': {Tag.BUILDING, Tag.STATIC},
    'mannequin': {Tag.BUILDING}, 'reflection': {Tag.BUILDING}, 'road_wall': {Tag.BUILDING},
    'statue': {Tag.STATIC}, 'van_picture': {Tag.CAR}}


def test_lookalikes_are_labelled_as_what_they_are(downtown):
    roles: dict[str, set[int]] = {}
    for time_s in np.arange(2., 62., 4.):
        rows = downtown.render(float(time_s)).instances_table()
        for role, tag in zip(rows.roles, rows.tags):
            roles.setdefault(role, set()).add(int(tag))
    assert set(LOOKALIKES) - set(roles) == set()
    for role, tags in LOOKALIKES.items():
        assert roles[role] <= tags, role
    assert roles['step_out'] == {Tag.PEDESTRIAN}


def test_riders_and_their_bicycles_are_in_the_table():
    """Both keep their ids while they are in view, the bicycle under its rider."""
    seen = 0
    with StreetSimulator('cyclists', seed=12, width=320, height=180) as street:
        for time_s in (6., 31.):
            frame = street.render(time_s)
            rows = frame.instances_table()
            assert set(frame.labels[np.isin(frame.instances, rows.ids[rows.tags == Tag.RIDER])]
                       ) == {Tag.RIDER}
            at = {int(i): p for i, p in zip(rows.ids, rows.positions)}
            for ident in rows.ids[(rows.tags == Tag.RIDER) & (rows.distance_m < 40.)]:
                bicycle = at.get(int(ident) - 1)
                if bicycle is not None:
                    assert np.linalg.norm(at[int(ident)] - bicycle) < 1.
                    assert at[int(ident)][1] < bicycle[1]
                    seen += 1
            near = np.isin(rows.tags, (Tag.RIDER, Tag.BICYCLE)) & (rows.distance_m < 40.)
            assert ((rows.visible[near] > 0) & (rows.visible[near] <= 1)).all()
    assert seen > 3


def test_an_empty_picture_and_a_frame_without_geometry(downtown):
    frame = downtown.render(6.)
    assert frame.scene is not None
    nothing = np.zeros((180, 320), np.uint16)
    assert len(tabulate(frame.scene, nothing.astype(np.uint8), nothing)) == 0
    with pytest.raises(SimulationError, match='geometry'):
        replace(frame, scene=None).instances_table()
