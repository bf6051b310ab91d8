"""The examples for Docker and systemd agree with each other and with the package."""

from __future__ import annotations

from pathlib import Path
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

from kd_perception.nodes.environment import tuning
from kd_perception.nodes.parameters import TABLES

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / 'docker' / 'Dockerfile').read_text()
UNIT = (ROOT / 'config' / 'systemd' / 'kd-perception.service').read_text()
COMPOSE = {path.name: yaml.safe_load(path.read_text())
           for path in (ROOT / 'docker').glob('compose*.yaml')}
SERVICES = [(file, name) for file, content in COMPOSE.items() for name in content['services']]


def parameters(command: list[str]) -> dict[str, str]:
    """Return the parameters that a node's command line sets."""
    return dict(command[i + 1].split(':=') for i, word in enumerate(command) if word == '-p')


@pytest.mark.parametrize(('file', 'name'), SERVICES)
def test_commands_set_parameters_that_exist(file, name):
    command = COMPOSE[file]['services'][name]['command']
    known = {spec.name: spec for spec in TABLES[command[0]]}
    for parameter, text in parameters(command).items():
        if not text.startswith('$'):
            known[parameter].parse(text)
        assert parameter in known
    for path in re.findall(r'/config/(\S+)', ' '.join(command)):
        assert (ROOT / 'config' / path).is_file()


def test_containers_hear_the_intrinsics_of_their_camera():
    for name in ('compose.yaml', 'compose.gpu.yaml'):
        command = COMPOSE[name]['services']['perception']['command']
        remapped = [command[i + 1].partition(':=')[0] for i, w in enumerate(command) if w == '-r']
        assert remapped == ['image', 'camera_info']


def test_what_a_vehicle_runs_is_confined():
    service = COMPOSE['compose.yaml']['services']['perception']
    assert service['read_only'] is True
    assert service['cap_drop'] == ['ALL']
    assert service['user'].startswith('${KD_UID:-1000}')
    # Shared memory among containers and host goes with the network, or images get lost.
    assert (service['network_mode'], service['ipc']) == ('host', 'host')
    assert re.search(r'^USER (?!0|root)', DOCKERFILE, re.MULTILINE)
    replay = COMPOSE['compose.replay.yaml']['services']
    assert replay['camera']['network_mode'] == 'none'
    assert replay['perception']['network_mode'] == 'service:camera'
    assert replay['perception']['ipc'] == 'service:camera'


def test_shared_memory_holds_a_segment_for_each_participant():
    profile = ElementTree.parse(ROOT / 'config' / 'fastdds.xml')
    segment = next(int(e.text) for e in profile.iter() if e.tag.endswith('segment_size'))
    services = COMPOSE['compose.replay.yaml']['services']
    size = services['camera']['shm_size']
    assert size.endswith('m')
    assert int(size[:-1]) * 2**20 >= 2 * len(services) * segment


@pytest.mark.parametrize('text', [DOCKERFILE, UNIT], ids=['Dockerfile', 'unit'])
def test_settings_for_large_images_are_those_of_the_runner(text):
    for name, value in tuning({}).items():
        if name.startswith('MALLOC'):
            assert f'{name}={value}' in text
        else:
            assert re.search(f'{name}=\\S*config/fastdds.xml', text)


def test_the_unit_ends_the_node_as_the_node_wants_it():
    lines = dict(line.partition('=')[::2] for line in UNIT.splitlines() if '=' in line)
    assert lines['KillSignal'] == 'SIGINT'
    assert lines['Restart'] == 'on-failure'
    assert lines['RestartPreventExitStatus'] == '2'
    # The shell makes way for the node, whose signs of life count; its first model takes a while.
    assert lines['NotifyAccess'] == 'main'
    assert ' && exec ' in lines['ExecStart']
    assert int(lines['WatchdogSec']) >= 60
    assert 'PrivateIPC' not in lines
    command = re.search(r"-c '(.*)'$", lines['ExecStart'])[1]
    assert subprocess.run(['bash', '-n', '-c', command]).returncode == 0
    assert lines['ExecStart'].count('source ') == 3


def test_the_unit_says_what_a_model_that_cannot_be_used_does():
    """It ends no node, which ``test_lifecycle`` shows."""
    comment = re.search(r'((?:#.*\n)+)RestartPreventExitStatus', UNIT)[1]
    assert 'or a model' not in comment
    assert 'stays unconfigured' in comment


def test_the_entry_point_is_a_shell_script_that_parses():
    script = ROOT / 'docker' / 'entrypoint.sh'
    assert subprocess.run(['bash', '-n', str(script)]).returncode == 0
    assert script.stat().st_mode & 0o111
    assert 'COPY docker/entrypoint.sh' in DOCKERFILE
