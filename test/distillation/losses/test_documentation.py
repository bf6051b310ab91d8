from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, MISSING
import importlib
from pathlib import Path
import re

import pytest

from kd_perception.distillation.losses import build_losses, loss_kinds
from kd_perception.distillation.losses.loss import KINDS, Loss, Signals
from kd_perception.distillation.recipe import WeightingRecipe
from kd_perception.distillation.recipe_checks import OPTIMIZERS
from kd_perception.tasks.soft_labels import CODECS

PAGE = Path(__file__).parents[3] / 'docs' / 'losses.md'


@pytest.fixture
def page() -> str:
    if not PAGE.is_file():
        pytest.skip('docs/ is not installed')
    return PAGE.read_text()


def test_every_loss_and_setting_is_documented_with_its_default(page: str) -> None:
    common = {f.name for f in fields(Loss)}
    for name, kind in loss_kinds().items():
        row = next((x for x in page.splitlines() if x.startswith(f'| `{name}` |')), '')
        assert row, f'docs/losses.md has no row for {name}'
        for item in fields(kind):
            if item.name not in common:
                made = item.default_factory
                default = item.default if made is MISSING else made()
                assert f'`{item.name}: {default}`' in row, f'{name}.{item.name}'
    for item in fields(WeightingRecipe):
        assert f'| `{item.name}` | {item.default} |' in page
    for name in CODECS:
        assert f' `{name}` |' in page
    for name in OPTIMIZERS:
        assert f'| `{name}` |' in page


def test_the_example_of_a_loss_of_ones_own_works(
        page: str, make_signals: Callable[..., Signals], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    loss_kinds()
    (example,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    (tmp_path / 'loss_of_ones_own.py').write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(KINDS)
    try:
        importlib.import_module('loss_of_ones_own')
        loss = build_losses({'variation': {'temperature': 2}})['variation']
        value = loss(make_signals(masked=True))
        value.backward()
        assert 0 < float(value.detach()) < 1
    finally:
        KINDS.clear()
        KINDS.update(before)
