"""The gallery of the docs: whole, small, and shown."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.paths import share_directory

pytest.importorskip('moderngl')

FOLDER = share_directory() / 'docs' / 'gallery'


def test_every_sheet_is_there_shown_and_small():
    from tools.gallery import SHEETS
    text = (FOLDER.parent / 'simulator.md').read_text()
    for name in SHEETS:
        assert (FOLDER / f'{name}.jpg').is_file()
        assert f'(gallery/{name}.jpg)' in text
    assert {p.stem for p in FOLDER.iterdir()} == set(SHEETS)
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 1.5e6


def test_a_sheet_has_rows_of_tiles():
    from tools.gallery import sheet, TILE
    tiles = [(str(n), np.full((360, 640, 3), 40 * n, np.uint8)) for n in range(1, 4)]
    image = sheet(tiles, 2)
    assert image.shape == (2 * TILE[1], 2 * TILE[0], 3)
    assert abs(int(image[20, 20, 0]) - 40) <= 1
    assert (image[-20, -20] == 255).all()
