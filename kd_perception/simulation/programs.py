"""
Which shaders make up which program, and the variants of them that a world or a camera needs.

Comes in: a plan and a scenario. Goes out: names and definitions, and the sources put together.
"""

from __future__ import annotations

from importlib import resources

from kd_perception.simulation.plan import StreetPlan
from kd_perception.simulation.scenario import Scenario
from kd_perception.simulation.view import Surface

# Program: its vertex shader, then the parts of its fragment shader. A surface has a program of its
# own because the software rasteriser runs every branch of a shader for every pixel.
_PROGRAMS = {
    'shadow': ('object_vertex', 'shadow_fragment'),
    **{s.name.lower(): ('object_vertex', 'object_surface', f'{s.name.lower()}_fragment')
       for s in Surface},
    **{strip: ('ground_vertex', 'ground_surface', f'{strip}_fragment')
       for strip in ('road', 'walk', 'terrain')},
    'sky': ('screen_vertex', 'sky_fragment'),
    'camera': ('screen_vertex', 'film', 'camera_fragment'),
}
_LAYOUT = {'intersection': 'JUNCTIONS', 'highway': 'HIGHWAY', 'suburb': 'SUBURB'}


def shader_stages(plan: StreetPlan, scenario: Scenario) -> tuple[dict[str, tuple[str, ...]], str]:
    """Return the programs and the definitions with which their shaders are compiled."""
    stages: dict[str, tuple[str, ...]] = dict(_PROGRAMS)
    defines = [_LAYOUT[plan.layout]] if plan.layout in _LAYOUT else []
    if plan.junctions.size:
        for strip in ('walk', 'terrain'):
            vertex, *fragment = stages[strip]
            stages[strip] = (vertex, fragment[0], 'side_street', *fragment[1:])
    if scenario.night > .5 and scenario.wet > .6:
        defines.append('WET_NIGHT')
    if not scenario.camera.ideal:
        stages['camera'] = ('screen_vertex', 'film', 'sensor_fragment')
        stages['lens'] = ('lens_vertex', 'lens_fragment')
    return stages, ''.join(f'#define {d}\n' for d in defines)


def shader_source(*names: str, defines: str = '') -> str:
    """Return ``common`` and the named shaders as one, with the definitions in front."""
    folder = resources.files('kd_perception.simulation') / 'shaders'
    text = ''.join((folder / f'{name}.glsl').read_text() for name in ('common', *names))
    version, newline, rest = text.partition('\n')
    return version + newline + defines + rest
