"""Writers that cannot finish: their recording is never taken for a whole one."""

from __future__ import annotations

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.bags.unfinished import how_to_recover, is_unfinished
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import main
from kd_perception.errors import BagError

# Writes pictures until it is stopped, or the file is as large as a limit allows.
ENDLESS = '''
import resource, sys
import numpy as np
from kd_perception.bags.output import RawBagWriter
from kd_perception.bags.writer import BagWriter, standard_channel
from kd_perception.bags import messages as msgs
from kd_perception.errors import KdPerceptionError
path, limit, storage, keep = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == 'keep'
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
try:
    with RawBagWriter(path, storage=storage, keep=keep) as writer:
        number = writer.add(standard_channel('/cam/image', msgs.IMAGE))
        for n in range(10 ** 6):
            data = msgs.to_cdr(msgs.make_image(picture, 'rgb8', n + 1, 'c'), msgs.IMAGE)
            writer.write(number, n + 1, data)
except KdPerceptionError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
'''


def writing(path, limit=0, storage='mcap', keep='drop'):
    return subprocess.Popen([sys.executable, '-c', ENDLESS, str(path), str(limit), storage, keep],
                            stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_full_disk_is_one_line_and_leaves_nothing(storage, tmp_path):
    name = 'drive.bag' if storage == 'ros1' else 'drive'
    process = writing(tmp_path / 'out' / name, 3_000_000, storage)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 2, err
    assert len(err.strip().splitlines()) == 1
    assert 'cannot be written' in err
    assert list((tmp_path / 'out').iterdir()) == []


def test_full_disk_keeps_what_cannot_be_recorded_again(tmp_path, capsys):
    process = writing(tmp_path / 'drive', 3_000_000, 'mcap', 'keep')
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert len(err.strip().splitlines()) == 1
    folder = tmp_path / 'drive.unfinished'
    assert f'recover it with: kd_perception bag cut {folder}' in err
    assert main(['bag', 'cut', str(folder), str(tmp_path / 'saved')]) == 0
    capsys.readouterr()
    with BagReader(tmp_path / 'saved') as reader:
        assert 8 <= len(reader.index('/cam/image')) <= 13


def test_a_killed_writer(tmp_path, capsys, picture):
    process = writing(tmp_path / 'drive')
    folder = tmp_path / 'drive.unfinished'
    deadline = time.monotonic() + 60
    while not (folder / 'drive_0.mcap').exists() or \
            (folder / 'drive_0.mcap').stat().st_size < 3_000_000:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [p.name for p in tmp_path.iterdir()] == ['drive.unfinished']
    # Nobody takes it for a recording, by its own name or in a folder of recordings.
    for path in (folder, folder / 'drive_0.mcap'):
        with pytest.raises(BagError, match='is an unfinished recording; .* bag cut'):
            open_source(path)
    with BagWriter(tmp_path / 'drive') as writer:
        writer.write_image('image', picture(0), 1)
    assert len(open_source(tmp_path)) == 1
    # What is in it can be seen and recovered.
    assert main(['bag', 'info', str(folder)]) == 0
    said = capsys.readouterr().out
    assert 'UNFINISHED   its writer was killed or still writes' in said
    assert main(['bag', 'cut', str(folder), str(tmp_path / 'saved')]) == 0
    capsys.readouterr()
    source = open_source(tmp_path / 'saved')
    assert len(source) >= 8
    assert source[3].image.shape == (240, 320, 3)


def test_what_an_earlier_writer_left_is_not_touched(tmp_path, picture):
    for name in ('drive.unfinished', 'drive.unfinished-1'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'drive_0.mcap').write_bytes(b'precious')
    with BagWriter(tmp_path / 'drive') as writer:
        writer.write_image('image', picture(0), 1)
        assert (tmp_path / 'drive.unfinished-2').is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'drive', 'drive.unfinished', 'drive.unfinished-1']
    assert (tmp_path / 'drive.unfinished' / 'drive_0.mcap').read_bytes() == b'precious'


def test_names():
    assert is_unfinished(Path('a/drive.unfinished'))
    assert is_unfinished(Path('a/drive.unfinished-12/drive_0.mcap'))
    assert not is_unfinished(Path('a/unfinished/drive'))
    assert not is_unfinished(Path('a/drive.unfinished.d/b/c'))
    assert how_to_recover(Path('a/drive.unfinished-1')).endswith(
        'kd_perception bag cut a/drive.unfinished-1 a/drive')


def test_target_that_cannot_be_written(tmp_path, picture):
    def record(path):
        with BagWriter(path) as writer:
            writer.write_image('image', picture(0), 1)

    with pytest.raises(BagError, match='/proc/self/drive: cannot be written'):
        record('/proc/self/drive')
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot be written'):
        record(tmp_path / 'file' / 'drive')
    if os.geteuid():
        (tmp_path / 'locked').mkdir(0o555)
        with pytest.raises(BagError, match='cannot be written: Permission denied'):
            record(tmp_path / 'locked' / 'drive')


def test_a_target_that_appears_meanwhile_is_kept(tmp_path, picture):
    def record():
        with BagWriter(tmp_path / 'drive') as writer:
            writer.write_image('image', picture(0), 1)
            (tmp_path / 'drive').mkdir()
            (tmp_path / 'drive' / 'letter.txt').write_text('dear')

    with pytest.raises(BagError, match='cannot be written'):
        record()
    assert (tmp_path / 'drive' / 'letter.txt').read_text() == 'dear'
    assert [p.name for p in tmp_path.iterdir()] == ['drive']


def test_interrupted_block_leaves_nothing(tmp_path):
    def record():
        with BagWriter(tmp_path / 'drive') as writer:
            writer.write_image('image', np.zeros((4, 4, 3), np.uint8), 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    assert list(tmp_path.iterdir()) == []
