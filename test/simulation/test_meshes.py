from __future__ import annotations

import numpy as np
import pytest

from kd_perception.simulation.meshes import Mesh, meshes, MeshId

NEAR, FAR = meshes(), meshes(far=True)


def corners(mesh: Mesh) -> np.ndarray:
    return mesh.vertices[mesh.indices].reshape(-1, 3, 6)


def test_every_mesh_has_a_near_form_and_far_forms_are_cheaper():
    assert set(NEAR) == set(MeshId)
    assert FAR
    for name, mesh in FAR.items():
        assert len(mesh.indices) < .6 * len(NEAR[name].indices)


@pytest.mark.parametrize('name', list(MeshId))
def test_indices_fit_normals_are_unit_and_triangles_have_an_area(name):
    mesh = NEAR[name]
    assert mesh.vertices.dtype == np.float32
    assert mesh.indices.dtype == np.int32
    assert set(mesh.indices) == set(range(len(mesh.vertices)))
    assert np.linalg.norm(mesh.vertices[:, 3:], axis=1) == pytest.approx(1, abs=1e-4)
    edges = corners(mesh)[:, 1:, :3] - corners(mesh)[:, :1, :3]
    assert (np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) > 1e-4).all()


@pytest.mark.parametrize('name', list(MeshId))
def test_normals_point_out_of_the_solid(name):
    mesh = NEAR[name]
    middle = mesh.vertices[:, :3].mean(axis=0)
    outward = ((mesh.vertices[:, :3] - middle) * mesh.vertices[:, 3:]).sum(axis=1)
    assert (outward > -1e-5).all()


def test_shapes_are_what_their_names_say():
    box, disc = NEAR[MeshId.BOX].vertices[:, :3], NEAR[MeshId.DISC].vertices[:, :3]
    assert np.ptp(box, axis=0) == pytest.approx([1, 1, 1])
    assert np.ptp(disc, axis=0)[0] == pytest.approx(1)           # its axis is x
    assert np.hypot(disc[:, 1], disc[:, 2]).max() == pytest.approx(1, abs=1e-4)
    triangle = NEAR[MeshId.TRIANGLE].vertices[:, :3]
    assert triangle[:, 2].max() == pytest.approx(1)              # stands on its side
    assert triangle[:, 2].min() == pytest.approx(-.5, abs=1e-4)


@pytest.mark.parametrize('form', [NEAR, FAR])
def test_triangles_turn_counter_clockwise_as_seen_from_outside(form):
    for name, mesh in form.items():
        places = corners(mesh)[:, :, :3]
        facing = np.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0])
        outward = ((places.mean(axis=1) - mesh.vertices[:, :3].mean(axis=0)) * facing).sum(axis=1)
        assert (outward > -1e-6).all(), name
