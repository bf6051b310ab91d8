from __future__ import annotations

import numpy as np
import pytest

from kd_perception.simulation.ground import ground_meshes
from kd_perception.simulation.layouts import plan_world
from kd_perception.simulation.parts import KERB_M
from kd_perception.simulation.plan import plan_street
from kd_perception.simulation.settings import Content
from kd_perception.simulation.worlds import load_world


@pytest.mark.parametrize('seed', range(4))
def test_strips_lie_edge_to_edge_and_face_up(seed):
    plan = plan_street(seed)
    spans = []
    for name, mesh in ground_meshes(plan):
        d, z = mesh.vertices[:, 1], mesh.vertices[:, 2]
        spans.append((d.min(), d.max(), name))
        assert set(np.unique(z)) <= {np.float32(0), np.float32(KERB_M)}
        places = mesh.vertices[mesh.indices].reshape(-1, 3, 3)
        facing = np.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0])
        assert (facing[:, 2] > 0).all()
    spans.sort()
    for (_, end, _), (start, _, _) in zip(spans, spans[1:]):
        assert end == pytest.approx(start, abs=1e-6)
    assert [name for *_, name in spans] == ['terrain', 'walk', 'walk', 'road', 'walk', 'walk',
                                            'terrain']
    road = next(s for s in spans if s[2] == 'road')
    assert road[:2] == pytest.approx((-plan.road[1], plan.road[0]))


def test_a_highway_has_a_verge_instead_of_kerbs():
    plan = plan_world(3, load_world('highway'), Content())
    names = [name for name, _ in ground_meshes(plan)]
    assert names.count('road') == 1
    assert 'walk' not in names
    for name, mesh in ground_meshes(plan):
        places = mesh.vertices[mesh.indices].reshape(-1, 3, 3)
        facing = np.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0])
        assert (facing[:, 2] > 0).all(), name
