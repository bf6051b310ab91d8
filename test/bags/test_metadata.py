"""metadata.yaml of every version."""

from __future__ import annotations

import pytest
import yaml

from kd_perception.bags.cut import cut_bag
from kd_perception.bags.metadata import (
    is_latched,
    METADATA,
    Metadata,
    qos_text,
    read_metadata,
)
from kd_perception.bags.reader import BagReader
from kd_perception.bags.storage import Channel, QOS
from kd_perception.errors import BagError

KEY = 'rosbag2_bagfile_information'
NAMED = '- history: keep_last\n  depth: 1\n  reliability: reliable\n  durability: transient_local'


def channel(profile):
    return Channel(0, '/t', 'a/msg/B', '', 'msg', 'cdr', ((QOS, profile),))


def test_latched():
    assert is_latched(channel(qos_text(latched=True)))
    assert not is_latched(channel(qos_text()))
    assert is_latched(channel(NAMED))
    assert not is_latched(channel(''))
    assert is_latched(Channel(0, '/t', 'a/msg/B', '', 'msg', 'ros1', (('latching', '1'),)))


@pytest.mark.parametrize('version', range(1, 10))
def test_every_version(version, labelled_bag, tmp_path):
    """Versions 1 to 3 put the folder before the file; fields came and went."""
    file = next(labelled_bag.glob('*.mcap'))
    folder = tmp_path / 'bag'
    folder.mkdir()
    (folder / file.name).write_bytes(file.read_bytes())
    about = {'version': version, 'storage_identifier': 'mcap',
             'relative_file_paths': [f'bag/{file.name}' if version < 4 else file.name]}
    if version >= 3:
        about |= {'compression_format': '', 'compression_mode': ''}
    if version >= 6:
        about['custom_data'] = {'driver': 'Ada'} if version > 6 else None
    if version >= 8:
        about['ros_distro'] = 'jazzy'
    (folder / METADATA).write_text(yaml.safe_dump({KEY: about}))
    with BagReader(folder) as reader:
        assert reader.warnings == ()
        assert reader.metadata.version == version
        assert len(list(reader.messages())) == 19
    part = cut_bag(folder, tmp_path / 'cut')
    kept = read_metadata(part.path)
    assert kept.ros_distro == ('jazzy' if version >= 8 else '')
    assert kept.custom == ({'driver': 'Ada'} if version > 6 else {})


@pytest.mark.parametrize('text', ['', '[]', 'x: 1', f'{KEY}: 5', f'{KEY}: {{version: 5}}',
                                  f'{KEY}: {{relative_file_paths: [{{a: 1}}]}}', '\x00',
                                  '{' * 9000, '[' * 20_000,
                                  '- ' * 20_000])
def test_what_is_no_metadata(text, tmp_path):
    (tmp_path / METADATA).write_text(text)
    with pytest.raises(BagError, match='is no rosbag2 metadata') as caught:
        read_metadata(tmp_path)
    assert len(str(caught.value)) < 500
    assert Metadata().files == ()


def test_a_compressed_file_is_found_without_its_ending(write_messages, picture):
    from rosbags.rosbag2 import CompressionMode

    from kd_perception.bags import messages as msgs

    path = write_messages([('/i', msgs.IMAGE, msgs.make_image(picture(0), 'rgb8', 1, 'c'), 1)],
                          compression=CompressionMode.FILE)
    text = (path / METADATA).read_text()
    assert '.db3.zstd' in text
    (path / METADATA).write_text(text.replace('.db3.zstd', '.db3'))
    with BagReader(path) as reader:
        assert len(list(reader.messages())) == 1
    (path / METADATA).unlink()
    with BagReader(path) as reader:
        assert len(list(reader.messages())) == 1
        assert f'has no {METADATA}' in reader.warnings[0]
