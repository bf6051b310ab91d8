"""Show class sets and check the maps between them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from kd_perception.classes import ClassMap, ClassSet, load_class_map, load_class_set, UNLABELLED
from kd_perception.errors import ConfigError, first_line
from kd_perception.paths import config_file, share_directory

EPILOG = '''\
examples:
  kd_perception classes list
  kd_perception classes show camvid
  kd_perception classes show carla_to_driving
  kd_perception classes check carla driving
  kd_perception classes check carla my_classes.yaml --map my_map.yaml
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.epilog = EPILOG
    verbs = parser.add_subparsers(dest='action', metavar='list|show|check', required=True)
    verbs.add_parser('list', help='name the class sets and maps that are shipped')
    show = verbs.add_parser('show', help='print one class set or map')
    show.add_argument('name', help='a shipped name, or the path of a YAML file')
    show.add_argument('--json', action='store_true', help='print JSON')
    check = verbs.add_parser('check', help='check that a map fits two class sets')
    check.add_argument('source', help='class set of the data')
    check.add_argument('target', help='class set of the model')
    check.add_argument('--map', default='', metavar='FILE',
                       help='the map; by default <source>_to_<target>')


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.action == 'list':
        _list()
    elif args.action == 'show':
        _show(args.name, as_json=args.json)
    else:
        source, target = load_class_set(args.source), load_class_set(args.target)
        table = load_class_map(source, target, args.map)
        _print_map(table, source, target)
        print(f'ok: every class of {source.name} is mapped, dropped or ignored, every class of '
              f'{target.name} is reached')
    return 0


def _list() -> None:
    for path in sorted((share_directory() / 'config' / 'classes').glob('*.yaml')):
        data = _load(path)
        if 'map' in data:
            print(f'{path.stem:20} map from {data["source"]} to {data["target"]}')
        else:
            print(f'{path.stem:20} {len(load_class_set(path.stem))} classes')


def _show(name: str, *, as_json: bool) -> None:
    data = _load(config_file('classes', name))
    if 'map' in data:
        source, target = (_class_set_beside(config_file('classes', name), str(data.get(k, '')))
                          for k in ('source', 'target'))
        table = load_class_map(source, target, name)
        if as_json:
            print(json.dumps({'source': source.name, 'target': target.name,
                              'table': table.table[:len(source)].tolist()}))
        else:
            _print_map(table, source, target)
        return
    classes = load_class_set(name)
    if as_json:
        print(json.dumps(classes.to_dict()))
        return
    print(f'{classes.name}: {len(classes)} classes; {UNLABELLED} is unlabelled'
          + (f', and so are {list(classes.void_ids)}' if classes.void_ids else ''))
    for number, (label, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
        print(f'{number:4} {label:20} #{color[0]:02x}{color[1]:02x}{color[2]:02x}')


def _print_map(table: ClassMap, source: ClassSet, target: ClassSet) -> None:
    for number, label in enumerate(source.names):
        to = int(table.table[number])
        nowhere = ' dropped' if number in table.dropped else ' ignored'
        print(f'{number:4} {label:20} -> '
              + (f'{to:4} {target.names[to]}' if to != UNLABELLED else nowhere))


def _class_set_beside(file: Path, name: str) -> ClassSet:
    """Return a class set that a map names: a file next to the map, or a shipped one."""
    beside = file.parent / f'{name}.yaml'
    taken = beside != file and beside.is_file() and 'map' not in _load(beside)
    return load_class_set(str(beside) if taken else name)


def _load(path: Path) -> dict:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: not readable as YAML: {first_line(error)}') from None
    if not isinstance(data, dict):
        raise ConfigError(f'{path}: is neither a class set nor a map')
    return data
