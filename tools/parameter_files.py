"""
Write the parameter files in config/ from the tables that the nodes declare.

    .venv/bin/python -m tools.parameter_files [--out config]

Run it after a change in kd_perception/nodes/parameters.py; a test holds the files to what it
writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import textwrap

from kd_perception.nodes.parameters import ParameterSpec, TABLES, Value

COLUMNS = 99
HEADS = {
    'perception.yaml': '''\
# Parameters of the perception node, with their defaults. Launch arguments win over this file:
#   ros2 launch kd_perception perception.launch.py params_file:=<a copy of this> model:=student
''',
    'ab_comparison.yaml': '''\
# Parameters of the nodes of an A/B comparison, with their defaults; arms are /a/perception,
# /b/perception. What the launch file sets from its arguments (models, engines, source, pacing, …)
# wins over this file. All are read at the start of the node.
''',
    'shadow.yaml': '''\
# Parameters of the shadow node, with their defaults. Launch arguments win over this file:
#   ros2 launch kd_perception shadow.launch.py params_file:=<a copy of this> model:=teacher
# All are read at the start of the node.
'''}
# Sections of each file: pattern of the node's full name, and the table.
SECTIONS = {'perception.yaml': (('/**', 'perception'),),
            'ab_comparison.yaml': (('/**/camera', 'camera'), ('/**/monitor', 'monitor')),
            'shadow.yaml': (('/**', 'shadow'),)}


def render(name: str) -> str:
    """Return the text of one of the files in ``HEADS``."""
    parts = [HEADS[name]]
    for pattern, table in SECTIONS[name]:
        parts.append(f'{pattern}:\n  ros__parameters:\n')
        # Where nothing can be set later, the head of the file says so once.
        told = not all(spec.read_only for spec in TABLES[table])
        parts += [_entry(spec, told) for spec in TABLES[table]]
    return ''.join(parts)


def _entry(spec: ParameterSpec, settable: bool) -> str:
    when = f' {spec.settable}' if settable and not spec.dynamic else ''
    comment = textwrap.fill(f'{spec.text}{_limits(spec)}{when}', COLUMNS,
                            initial_indent='    # ', subsequent_indent='    # ',
                            break_long_words=False, break_on_hyphens=False)
    return f'{comment}\n    {spec.name}: {_yaml(spec.default)}\n'


def _limits(spec: ParameterSpec) -> str:
    low, high = spec.minimum, spec.maximum
    if low is None and high is None:
        return ''
    if low is None or high is None:
        return f' At least {low:.15g}.' if high is None else f' At most {high:.15g}.'
    return f' From {low:.15g} to {high:.15g}.'


def _yaml(value: Value) -> str:
    """Return ``value`` so that no text turns into a number or a truth value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'{}'".format(value.replace("'", "''"))
    if isinstance(value, tuple):  # an empty list has no type in ROS
        return f'[{", ".join(_yaml(v) for v in value or ("",))}]'
    return repr(value)


def main() -> int:
    """Write all files."""
    parser = argparse.ArgumentParser(description='write the parameter files in config/')
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'config')
    out = parser.parse_args().out
    for name in HEADS:
        (out / name).write_text(render(name), encoding='utf-8')
        print(out / name)
    return 0


if __name__ == '__main__':
    sys.exit(main())
