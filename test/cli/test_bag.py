"""The verb ``bag``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.cli.bag import ACTIONS
from kd_perception.cli.bag_record_live import add_arguments as add_live_arguments
from kd_perception.cli.main import main
from kd_perception.imaging import encode_jpeg


def make_bag(path):
    with BagWriter(path) as writer:
        for n in range(3):
            stamp = 1_700_000_000_000_000_000 + n * 100_000_000
            writer.write_image('camera/image', np.full((6, 8, 3), n, np.uint8), stamp)
            writer.write_labels('camera/labels', np.zeros((6, 8), np.uint8), stamp)
        writer.write_label_info('camera/label_info', load_class_set('driving'), stamp)
    return path


def make_folder(path, count=5):
    path.mkdir()
    for n in range(count):
        image = np.random.default_rng(n).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        (path / f'{n:04}.jpg').write_bytes(encode_jpeg(image))
    return path


def test_info(tmp_path, capsys):
    bag = make_bag(tmp_path / 'bag')
    assert main(['bag', 'info', str(bag)]) == 0
    out = capsys.readouterr().out
    assert 'cameras      /camera/image\n' in out
    assert 'labels       /camera/labels (driving, 12 classes)' in out
    assert '2023-11-14 22:13:20 UTC' in out
    assert '10.0 Hz' in out
    assert 'rgb8 8x6' in out


def test_info_as_json(tmp_path, capsys):
    bag = make_bag(tmp_path / 'bag')
    assert main(['bag', 'info', '--json', str(bag)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['camera_topics'] == ['/camera/image']
    assert facts['label_classes'] == {'/camera/labels': 'driving, 12 classes'}
    assert facts['messages'] == 7
    assert facts['duration_s'] == pytest.approx(0.2)
    topic = next(t for t in facts['topics'] if t['name'] == '/camera/image')
    assert topic == {'name': '/camera/image', 'type': 'sensor_msgs/msg/Image', 'count': 3,
                     'rate_hz': 10.0, 'encoding': 'rgb8', 'width': 8, 'height': 6,
                     'period_ms': None, 'gaps': 0, 'longest_gap_s': 0.1,
                     'dropped_estimate': None}


def test_info_without_cameras(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_labels('labels', np.zeros((6, 8), np.uint8), 1)
    assert main(['bag', 'info', str(tmp_path / 'bag')]) == 0
    out = capsys.readouterr().out
    assert 'no camera topic' in out
    assert 'classes not recorded' in out


def test_unclear_class_names_do_not_stop_info(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_labels('cam/labels', np.zeros((6, 8), np.uint8), 1)
        for name in ('a', 'b'):
            writer.write_label_info(name, load_class_set('driving'), 1)
    assert main(['bag', 'info', str(tmp_path / 'bag')]) == 0


def test_info_on_no_bag(tmp_path, capsys):
    assert main(['bag', 'info', str(tmp_path / 'nothing')]) == 2
    err = capsys.readouterr().err
    assert err == f'kd_perception bag: {tmp_path}/nothing: no such file or folder\n'


def test_import(tmp_path, capsys):
    folder = make_folder(tmp_path / 'images')
    arguments = ['bag', 'import', str(folder), str(tmp_path / 'bag')]
    assert main([*arguments, '--rate', '20', '--limit', '4']) == 0
    assert capsys.readouterr().out == f'{tmp_path}/bag\n'
    assert main(['bag', 'info', '--json', str(tmp_path / 'bag')]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['camera_topics'] == ['/camera/image/compressed']
    assert facts['topics'][0]['rate_hz'] == pytest.approx(20.0)
    assert facts['topics'][0]['count'] == 4
    assert main(arguments) == 2
    assert 'exists; choose another name or pass --overwrite' in capsys.readouterr().err
    assert main([*arguments, '--overwrite']) == 0


def test_wrong_arguments_are_one_line(tmp_path, capsys):
    for arguments in (['bag'], ['bag', 'squash'], ['bag', 'import', 'a'],
                      ['bag', 'record', str(tmp_path / 'x'), '--encoding', 'gif']):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert capsys.readouterr().err.count('\n') == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing(number, tmp_path):
    folder = make_folder(tmp_path / 'images', 3000)
    process = subprocess.Popen(
        [sys.executable, '-m', 'kd_perception.cli.main', 'bag', 'import', str(folder),
         str(tmp_path / 'out' / 'bag'), '--encoding', 'png'],
        stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    deadline = time.monotonic() + 60
    # Past the first messages: an interrupt in the middle of compiling their types, which is done
    # with exec, makes Python itself end by the signal.
    while not any(f.stat().st_size > 100_000
                  for f in (tmp_path / 'out').glob('bag.unfinished/*.mcap')):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert 'interrupted' in err
    assert 'Traceback' not in err
    assert list((tmp_path / 'out').iterdir()) == []


def test_cut_and_split(tmp_path, capsys):
    bag = make_bag(tmp_path / 'bag')
    out = tmp_path / 'cut'
    assert main(['bag', 'cut', str(bag), str(out), '--start', '0.05', '--end', '0.15']) == 0
    assert capsys.readouterr().out == f'{out}: 2 messages, 0.0 s\n'
    assert main(['bag', 'cut', str(bag), str(out)]) == 2
    assert 'exists; choose another name or pass --overwrite' in capsys.readouterr().err
    assert main(['bag', 'cut', str(bag), str(out), '--overwrite', '--topic', 'camera/image']) == 0
    assert capsys.readouterr().out == f'{out}: 3 messages, 0.2 s\n'
    parts = tmp_path / 'parts'
    assert main(['bag', 'split', str(bag), str(parts), '--length', '0.1']) == 0
    assert [line.split(',')[0] for line in capsys.readouterr().out.splitlines()] == [
        f'{parts}/bag_00{n}: {count} messages' for n, count in enumerate((2, 2, 3))]
    with pytest.raises(SystemExit):
        main(['bag', 'split', str(bag), str(parts)])


def test_every_action_explains_itself(capsys):
    for action in ACTIONS:
        with pytest.raises(SystemExit) as caught:
            main(['bag', action, '--help'])
        assert caught.value.code == 0
        assert len(capsys.readouterr().out) > 300


@pytest.mark.parametrize(('text', 'size'), [('4GB', 4 * 10 ** 9), ('500M', 5 * 10 ** 8),
                                            ('1.5k', 1500), ('7', 7)])
def test_sizes(text, size):
    parser = argparse.ArgumentParser()
    add_live_arguments(parser)
    assert parser.parse_args(['--max-size', text]).max_size == size
    for wrong in ('0', 'much', '-4GB'):
        with pytest.raises(SystemExit):
            parser.parse_args([f'--max-size={wrong}'])
