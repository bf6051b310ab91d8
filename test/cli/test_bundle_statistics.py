"""The verb ``bundle statistics``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kd_perception.bundle import (
    BundleSpec,
    InputSpec,
    load_bundle,
    MODEL_CARD,
    ModelBundle,
    STATISTICS,
    write_bundle,
)
from kd_perception.classes import load_class_set
from kd_perception.cli.main import main
from kd_perception.tasks.familiarity import load_statistics, picture_features


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    spec = BundleSpec('m', 'segmentation', 'teacher', load_class_set('driving'), InputSpec(32, 48))
    return write_bundle(tmp_path / 'm', spec, {MODEL_CARD: b'a card'})


def pictures(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        blots = rng.integers(60, 120, (4, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f'{i:03d}.png'), cv2.resize(blots, (48, 32)))
    return folder


def test_a_bundle_gets_statistics_of_recordings(bundle: ModelBundle, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    one, two = pictures(tmp_path / 'one', 40), pictures(tmp_path / 'two', 20)
    (one / '007.png').write_bytes(b'no picture')
    command = ['bundle', 'statistics', str(bundle.path), str(one), str(two)]
    assert main([*command, '--out', str(tmp_path / 'out')]) == 0
    assert 'statistics.json of 59 pictures' in capsys.readouterr().out
    made = load_bundle(tmp_path / 'out')
    assert made.spec == bundle.spec
    assert made.file(MODEL_CARD).read_bytes() == b'a card'
    found = load_statistics(made)
    assert found is not None
    assert found.pictures == 59
    black = picture_features(np.zeros((32, 48, 3), np.uint8))
    assert found.distance(black) > found.limit
    assert main(['bundle', 'verify', str(made.path)]) == 0
    # In place, too.
    assert main([*command, '--out', str(bundle.path), '--overwrite']) == 0
    assert load_bundle(bundle.path).has(STATISTICS)


def test_what_cannot_be_is_one_line(bundle: ModelBundle, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    few = pictures(tmp_path / 'few', 5)
    command = ['bundle', 'statistics', str(bundle.path), str(few), '--out']
    assert main([*command, str(tmp_path / 'out')]) == 2
    assert '5 pictures are too few' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    assert main([*command, str(bundle.path)]) == 2
    assert 'exists; choose another --out' in capsys.readouterr().err


def test_verify_reads_statistics(tmp_path: Path, bundle: ModelBundle,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    made = write_bundle(tmp_path / 'bad', bundle.spec, {STATISTICS: b'{}'})
    assert main(['bundle', 'verify', str(made.path)]) == 2
    assert 'schema_version None is unknown' in capsys.readouterr().err
