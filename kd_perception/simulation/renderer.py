"""
The renderer: one moderngl context without a window, three passes per picture.

Shadow map, then scene (colour and ids at once), then the camera's own look. Comes in: batches of
instances and poses. Goes out: RGB, tags, instance ids. Lives in the thread that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
import threading
from types import TracebackType
from typing import Any

import moderngl
import numpy as np

from kd_perception.errors import SimulationError
from kd_perception.simulation.camera import (
    axes_of,
    CameraModel,
    CameraPose,
    FAR_M,
    NEAR_M,
    view_matrix,
)
from kd_perception.simulation.context import create_context
from kd_perception.simulation.ground import ground_meshes
from kd_perception.simulation.meshes import Mesh, meshes
from kd_perception.simulation.parts import Tag
from kd_perception.simulation.plan import LAMP_HEAD_M, PERIOD_M, StreetPlan
from kd_perception.simulation.programs import shader_source, shader_stages
from kd_perception.simulation.scenario import Scenario
from kd_perception.simulation.view import Batch, COLUMNS, Surface

SHADOW_PX = 1024
SHADOW_HALF_M = 48.0
SHADOW_CENTRE_M = 38.0
STEP_M = 18.0            # the ground strip follows the camera in steps of this
ROW_BYTES = COLUMNS * 4


@dataclass(frozen=True)
class Drawn:
    """
    What was read back of one picture.

    :param image: uint8 ``[H, W, 3]`` RGB; ``tags`` uint8 ``[H, W]``; ``instances`` uint16
        ``[H, W]``; ``depth`` float32 ``[H, W]`` in metres, or None.
    """

    image: np.ndarray
    tags: np.ndarray
    instances: np.ndarray
    depth: np.ndarray | None


class Renderer:
    """
    Draws one street in one scenario; a context manager.

    :raises SimulationError: when no OpenGL 3.3 context without a window can be had.
    """

    def __init__(self, plan: StreetPlan, scenario: Scenario, camera: CameraModel) -> None:
        self._thread = threading.get_ident()
        self._plan, self._scenario, self._camera = plan, scenario, camera
        self._context: moderngl.Context | None = create_context()
        with self._context as context:
            stages, defines = shader_stages(plan, scenario)
            self._programs = {
                name: context.program(vertex_shader=shader_source(vertex, defines=defines),
                                      fragment_shader=shader_source(*fragment, defines=defines))
                for name, (vertex, *fragment) in stages.items()}
            #: Name of the OpenGL implementation that draws.
            self.description = str(context.info['GL_RENDERER'])
            self._targets()
            self._geometry()
            self._constants()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the context and everything in it; harmless when done twice."""
        if self._context is not None:
            self._check_thread()
            context, self._context = self._context, None
            context.__enter__()          # current for release; there is nothing to exit to
            context.release()

    def draw(self, batches: list[Batch], pose: CameraPose, time_s: float,
             jitter: tuple[float, float], *, gain: float = 1., before: CameraPose | None = None,
             depth: bool = False) -> Drawn:
        """
        Draw one picture.

        :param jitter: two numbers that make rain and sensor noise of this frame its own.
        :param gain: of the automatic exposure; ``before``: the pose when the shutter opened.
        :param depth: whether to read the depth back as well.
        """
        self._check_thread()
        # Another simulator of this thread may have made its own context current.
        with self._alive() as context:
            self._set_view(pose, time_s, jitter)
            self._set_sensor(pose, before or pose, gain)
            # Every mesh is closed, so faces that look away are hidden: a third less to rasterise.
            context.enable_only(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
            self._shadow_target.use()
            self._shadow_target.clear()
            for batch in batches if self._scenario.casts_shadows else ():
                self._draw(self._near[batch.mesh], 'shadow', batch.shadow)
            self._scene_target.use()
            self._scene_target.clear()
            self._shadow_map.use(0)
            for batch in batches:
                program = batch.surface.name.lower()
                self._draw(self._near[batch.mesh], program, batch.near)
                self._draw(self._far[batch.mesh], program, batch.far)
            for strip in self._ground:
                strip.render()
            self._sky.render()
            context.enable_only(moderngl.NOTHING)
            self._scene_color.use(0)
            if self._lens_target is not None:
                self._lens_target.use()
                self._lens_pass.render()
                self._scene_depth.use(1)
                self._lens_map.use(2)
                self._scene_ids.use(3)
            self._picture_target.use()
            self._post.render()
            return self._read(depth)

    def _draw(self, form: _Form, program: str, rows: np.ndarray) -> None:
        if len(rows) == 0:
            return
        form.reserve(len(rows))
        form.buffer.orphan()
        form.buffer.write(np.ascontiguousarray(rows))
        form.arrays[program].render(instances=len(rows))

    def _read(self, depth: bool) -> Drawn:
        height, width = self._camera.height, self._camera.width
        image = np.frombuffer(self._picture.read(alignment=1), np.uint8)
        ids = np.frombuffer(self._scene_ids.read(alignment=1), np.uint16)
        ids = ids.reshape(height, width, 2)[::-1]
        tags = ids[:, :, 0].astype(np.uint8, order='C')
        metres = None
        if depth:
            raw = np.frombuffer(self._scene_depth.read(alignment=1), np.float32)
            metres = _metres(raw.reshape(height, width)[::-1], tags)
        return Drawn(image.reshape(height, width, 3).copy(), tags,
                     np.ascontiguousarray(ids[:, :, 1]), metres)

    def _targets(self) -> None:
        context, size = self._alive(), (self._camera.width, self._camera.height)
        self._scene_color = context.texture(size, 4, dtype='f2')
        self._scene_ids = context.texture(size, 2, dtype='u2')
        self._scene_ids.filter = (moderngl.NEAREST, moderngl.NEAREST)
        self._scene_depth = context.depth_texture(size)
        self._scene_depth.compare_func = ''     # read as numbers, not compared
        self._scene_depth.filter = (moderngl.NEAREST, moderngl.NEAREST)
        self._scene_target = context.framebuffer([self._scene_color, self._scene_ids],
                                                 self._scene_depth)
        self._picture = context.texture(size, 3)
        self._picture_target = context.framebuffer([self._picture])
        self._lens_target = None
        if not self._scenario.camera.ideal:
            self._lens_map = context.texture((size[0] // 2, size[1] // 2), 4, dtype='f2')
            self._lens_map.repeat_x = self._lens_map.repeat_y = False
            self._lens_target = context.framebuffer([self._lens_map])
        self._shadow_map = context.depth_texture((SHADOW_PX, SHADOW_PX))
        self._shadow_map.compare_func = '<='
        self._shadow_map.filter = (moderngl.LINEAR, moderngl.LINEAR)
        self._shadow_map.repeat_x = self._shadow_map.repeat_y = False
        self._shadow_target = context.framebuffer(depth_attachment=self._shadow_map)

    def _geometry(self) -> None:
        context = self._alive()
        self._near = {k: _Form(context, m, self._programs) for k, m in meshes().items()}
        # A buffer of its own even where both forms are one mesh: each draw reads its own rows.
        self._far = {k: _Form(context, m, self._programs)
                     for k, m in (meshes() | meshes(far=True)).items()}
        corners = context.buffer(np.array([-1, -1, 3, -1, -1, 3], 'f4').tobytes())
        self._sky = context.vertex_array(self._programs['sky'], [(corners, '2f', 'corner')])
        self._post = context.vertex_array(self._programs['camera'], [(corners, '2f', 'corner')])
        if 'lens' in self._programs:
            self._lens_pass = context.vertex_array(self._programs['lens'],
                                                   [(corners, '2f', 'corner')])
        self._ground = [
            context.vertex_array(self._programs[name],
                                 [(context.buffer(mesh.vertices.tobytes()), '3f', 'strip')],
                                 context.buffer(mesh.indices.tobytes()))
            for name, mesh in ground_meshes(self._plan)]

    def _constants(self) -> None:
        plan, scenario = self._plan, self._scenario
        turn = np.array([[np.cos(plan.sun_turn), -np.sin(plan.sun_turn), 0],
                         [np.sin(plan.sun_turn), np.cos(plan.sun_turn), 0], [0, 0, 1]])
        self._sun = turn @ np.array(scenario.sun)
        self._sun /= np.linalg.norm(self._sun)
        head = LAMP_HEAD_M
        self._set({
            'curve_a': tuple(plan.curves[0]), 'curve_b': tuple(plan.curves[1]),
            'sun': tuple(self._sun), 'sun_color': scenario.sun_color,
            'ambient': scenario.ambient, 'fog_color': scenario.fog_color, 'fog': scenario.fog,
            'wet': scenario.wet, 'night': scenario.night, 'rain': scenario.rain,
            'zenith': scenario.zenith, 'horizon': scenario.horizon, 'clouds': scenario.clouds,
            'exposure': scenario.exposure, 'grain': scenario.grain, 'balance': scenario.balance,
            'seed': plan.seed % 97 + .37, 'tangent': self._camera.tangents,
            'lamps': (plan.lamp_spacing, plan.lamp_offset, head, float(plan.lamp_sides)),
            'widths': (*plan.road, *plan.walk), 'style': plan.marking,
            'side_half': plan.side_half, 'shutter': scenario.camera.shutter_s,
            'shot': scenario.camera.shot_noise, 'drops': scenario.camera.drops,
            'dirt': scenario.camera.dirt, 'flare': scenario.camera.flare,
            'shadow_map': 0, 'scene': 0, 'depth_map': 1, 'lens_map': 2,
            'id_map': 3})

    def _set_view(self, pose: CameraPose, time_s: float, jitter: tuple[float, float]) -> None:
        plan = self._plan
        places = plan.junctions if plan.junctions.size else plan.crossings
        near = places + np.round((pose.s + 150. - places) / PERIOD_M) * PERIOD_M
        near = near[np.argsort(np.abs(near - pose.s - 150.))][:8]
        crossings = np.full(8, -1e6)
        crossings[:len(near)] = near
        self._set({
            'eye': tuple(pose.eye), 'forward': tuple(pose.forward), 'jitter': jitter,
            'clock': time_s % 240., 'origin': float(np.floor(pose.s / STEP_M) * STEP_M),
            'crossings': crossings.tolist()})
        sun_view = self._sun_projection(pose)
        self._write('view_projection', self._camera.projection() @ pose.view())
        self._write('sun_projection', sun_view)
        self._write('camera_rotation', pose.axes().T)
        _member(self._programs['shadow'], 'view_projection').write(_bytes(sun_view))

    def _set_sensor(self, pose: CameraPose, before: CameraPose, gain: float) -> None:
        if self._scenario.camera.ideal:
            return
        projection = self._camera.projection()
        clip = projection @ pose.view()
        sun = clip @ np.append(self._sun, 0.)
        ahead = sun[3] > 1e-3
        place = sun[:2] / sun[3] if ahead else np.full(2, 9.)
        self._set({'gain': gain, 'sun_at': (*place, 1. if ahead else -1.)})
        self._write('smear', projection @ before.view() @ np.linalg.inv(clip))

    def _sun_projection(self, pose: CameraPose) -> np.ndarray:
        """Return the 4x4 clip matrix of the sun; it moves in whole texels, lest edges crawl."""
        axes = axes_of(self._sun)
        flat = np.array([np.cos(pose.heading), np.sin(pose.heading), 0.])
        centre = axes @ (pose.eye + flat * SHADOW_CENTRE_M)
        texel = 2 * SHADOW_HALF_M / SHADOW_PX
        centre[:2] = np.floor(centre[:2] / texel) * texel
        out = view_matrix(axes, axes.T @ centre)
        out[:2] /= SHADOW_HALF_M
        out[2] /= -90.
        return out

    def _set(self, values: dict[str, Any]) -> None:
        for program in self._programs.values():
            for name, value in values.items():
                if name in program:
                    _member(program, name).value = value

    def _write(self, name: str, matrix: np.ndarray) -> None:
        data = _bytes(matrix)
        for program in self._programs.values():
            if name in program:
                _member(program, name).write(data)

    def _alive(self) -> moderngl.Context:
        if self._context is None:
            raise SimulationError('the simulator is closed; make a new one')
        return self._context

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise SimulationError('a simulator belongs to the thread that made it; '
                                  'render and close it there')


class _Form:
    """One mesh on the GPU with a buffer for its instances, drawable by both programs."""

    def __init__(self, context: moderngl.Context, mesh: Mesh,
                 programs: dict[str, moderngl.Program]) -> None:
        self._context, self._programs = context, programs
        self._vertices = context.buffer(mesh.vertices.tobytes())
        self._indices = context.buffer(mesh.indices.tobytes())
        self._capacity = 0
        self.reserve(64)

    def reserve(self, count: int) -> None:
        """Make room for ``count`` instances."""
        if count <= self._capacity:
            return
        self._capacity = max(count, 2 * self._capacity)
        self.buffer = self._context.buffer(reserve=self._capacity * ROW_BYTES)
        shaded = [(self._vertices, '3f 3f', 'vertex', 'normal'),
                  (self.buffer, '3f 3f 4f 3f 2f/i', 'place', 'size', 'attitude', 'paint', 'ids')]
        self.arrays = {
            surface.name.lower(): self._context.vertex_array(
                self._programs[surface.name.lower()], shaded, self._indices)
            for surface in Surface}
        self.arrays['shadow'] = self._context.vertex_array(
            self._programs['shadow'],
            [(self._vertices, '3f 12x', 'vertex'),
             (self.buffer, '3f 3f 4f 20x/i', 'place', 'size', 'attitude')],
            self._indices)


def _member(program: moderngl.Program, name: str) -> moderngl.Uniform:
    member = program[name]
    if not isinstance(member, moderngl.Uniform):
        raise TypeError(f'{name} is no uniform of the shader')
    return member


def _bytes(matrix: np.ndarray) -> bytes:
    """Return a matrix column by column, as OpenGL wants it."""
    return matrix.T.astype('f4').tobytes()


def _metres(raw: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Return depth along the optical axis in metres, infinite for the sky (REP 118)."""
    ndc = 2. * raw - 1.
    out = 2. * FAR_M * NEAR_M / (FAR_M + NEAR_M - ndc * (FAR_M - NEAR_M))
    out[tags == Tag.SKY] = np.inf
    return np.ascontiguousarray(out, np.float32)
