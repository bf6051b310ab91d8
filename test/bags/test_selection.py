"""Files that name frames of recordings."""

from __future__ import annotations

import json
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

from kd_perception.bags.cut import cut_bag
from kd_perception.bags.reader import BagReader
from kd_perception.bags.sampling import Sampling
from kd_perception.bags.selection import load_selection, SelectedRecording, Selection
from kd_perception.bags.source import open_one, open_source
from kd_perception.errors import BagError, ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'pictures').mkdir()
    for n in range(8):
        cv2.imwrite(str(tmp_path / 'pictures' / f'{n}.png'), np.full((8, 8, 3), n, np.uint8))
    return tmp_path / 'pictures'


def chosen(path: Path, indices: tuple[int, ...], **more: object) -> Selection:
    source = open_source(path)
    one = SelectedRecording(source.name, source.fingerprint, getattr(source, 'topic', ''),
                            len(source), indices, **more)  # type: ignore[arg-type]
    return Selection('uniform', (one,))


def test_it_comes_back_as_it_was_written_and_is_not_overwritten(folder: Path,
                                                                tmp_path: Path) -> None:
    selection = chosen(folder, (1, 4, 6), scores=(0.5, 0.25, 0.125))
    selection.save(tmp_path / 's.json')
    loaded = load_selection(tmp_path / 's.json')
    assert loaded.recordings == selection.recordings
    assert len(loaded) == 3
    with pytest.raises(ConfigError, match='exists; choose another --out'):
        selection.save(tmp_path / 's.json')
    selection.save(tmp_path / 's.json', overwrite=True)


def test_a_recording_is_known_by_its_content_and_not_by_its_name(folder: Path,
                                                                 tmp_path: Path) -> None:
    chosen(folder, (1, 4, 6)).save(tmp_path / 's.json')
    moved = shutil.copytree(folder, tmp_path / 'moved')
    source = open_source(moved, selection=tmp_path / 's.json')
    assert [f.key.index for f in source] == [1, 4, 6]
    assert [int(f.image[0, 0, 0]) for f in source] == [1, 4, 6]
    # Further choices act on what was selected.
    assert [f.key.index for f in open_source(moved, selection=tmp_path / 's.json', limit=2)] == \
        [1, 4]
    assert source.chosen not in ('', open_source(moved).chosen)
    (folder / '0.png').write_bytes(b'another recording')
    with pytest.raises(BagError, match=r's.json: selects frames of pictures \(\w{8}\), not of '
                       r'pictures \(\w{8}\); give a recording that it was made of'):
        open_source(folder, selection=tmp_path / 's.json')


def test_another_topic_is_refused(labelled_bag: Path) -> None:
    selection = chosen(labelled_bag, (0, 2))
    one = selection.recordings[0]
    other = Selection('uniform', (SelectedRecording(one.name, one.fingerprint, '/rear', 6, (0,)),))
    assert len(open_one(labelled_bag, sampling=Sampling(selection=selection))) == 2
    with pytest.raises(BagError, match='selects frames of labelled /rear, not of /camera/image'):
        open_one(labelled_bag, sampling=Sampling(selection=other))


@pytest.mark.parametrize('text', [
    '', '[]', '{}', '{"schema_version": 1, "by": "x", "recordings": [{"name": "a"}]}',
    json.dumps({'schema_version': 1, 'by': 'x', 'recordings': [
        {'name': 'a', 'fingerprint': 'f', 'topic': '', 'frames': 3, 'indices': [2, 1]}]}),
    json.dumps({'schema_version': 1, 'by': 'x', 'recordings': [
        {'name': 'a', 'fingerprint': 'f', 'topic': '', 'frames': 3, 'indices': [3]}]}),
    '{"schema_version": 2}'])
def test_other_files_are_refused_in_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / 's.json').write_text(text)
    with pytest.raises(ConfigError, match=r's.json: (is no selection|schema_version 2)'):
        load_selection(tmp_path / 's.json')
    with pytest.raises(ConfigError, match='gone.json: cannot be read'):
        load_selection(tmp_path / 'gone.json')


def test_a_bag_is_cut_to_the_selected_frames(labelled_bag: Path, tmp_path: Path) -> None:
    cut_bag(labelled_bag, tmp_path / 'cut', selection=chosen(labelled_bag, (1, 4)))
    before, after = open_source(labelled_bag), open_source(tmp_path / 'cut')
    assert [f.log_ns for f in after] == [before[i].log_ns for i in (1, 4)]
    assert all(np.array_equal(after[n].image, before[i].image) for n, i in enumerate((1, 4)))
    # Other topics stay whole, so the labels are found again.
    with BagReader(tmp_path / 'cut') as reader:
        assert {t.name: t.count for t in reader.topics}['/camera/labels'] == 6
    assert np.array_equal(after[1].labels, before[4].labels)
    with pytest.raises(BagError, match='no selected frame is in the stretch'):
        cut_bag(labelled_bag, tmp_path / 'none', end_s=0.01, topics=['camera/image'],
                selection=chosen(labelled_bag, (1, 4)))
    with pytest.raises(BagError, match='not of cut'):
        cut_bag(tmp_path / 'cut', tmp_path / 'again', selection=chosen(labelled_bag, (1, 4)))
    assert not (tmp_path / 'none').exists()


