"""What a serving model says of its engine's choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kd_perception.cli import checks
from kd_perception.nodes.perception.serving import ServingModel, ServingSettings


def test_named_engines_are_not_measured_and_auto_says_why(
        bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    settings = ServingSettings(model=str(bundles / 'one'), engine='onnxruntime')
    model = ServingModel.load(settings, 1)
    assert model.describe()['engine_choice'] == 'asked for'
    model.close()
    assert not list(tmp_path.rglob('choices'))
    model = ServingModel.load(ServingSettings(model=str(bundles / 'one')), 1)
    told = json.loads(json.dumps(model.describe()))
    assert told['engine'] in told['engine_choice']
    assert 'measured 20' in told['engine_choice']
    model.close()
    shown = [c.detail for c in checks._engines() if c.name == 'fastest']
    assert shown == [f'{told["name"]}: {told["engine_choice"]}']
