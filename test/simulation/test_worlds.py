from __future__ import annotations

import pytest
import yaml

from kd_perception.errors import ConfigError
from kd_perception.paths import share_directory
from kd_perception.simulation.worlds import load_world, WorldSpec

FOLDER = share_directory() / 'config' / 'worlds'


def test_the_promised_worlds_are_shipped_and_named_as_their_files():
    shipped = sorted(p.stem for p in FOLDER.glob('*.yaml'))
    assert {'street', 'intersection', 'highway', 'suburb', 'downtown'} <= set(shipped)
    assert [load_world(name).name for name in shipped] == shipped
    assert not load_world('street').alive


def test_a_path_loads_a_world_of_ones_own(tmp_path):
    data = yaml.safe_load((FOLDER / 'highway.yaml').read_text())
    data['amounts']['speed_mps'] = 33
    path = tmp_path / 'fast.yaml'
    path.write_text(yaml.safe_dump(data))
    assert load_world(str(path)).amounts.speed_mps == 33.0


@pytest.mark.parametrize(('change', 'told'), [
    ({'layout': 'moon'}, "layout 'moon' is none of street, intersection"),
    ({'alive': 'yes'}, 'alive must be true or false'),
    ({'alive': False, 'layout': 'highway'}, 'only the layout street'),
    ({'alive': False, 'layout': 'street'}, 'set speed_mps to that'),
    ({'amounts': {'speed': 3}}, 'known: speed_mps'),
    ({'amounts': {'speed_mps': 300}}, 'must be 3 to 40'),
    ({'weather': 1}, "unknown keys .'weather'"),
])
def test_a_wrong_value_is_refused(change, told):
    data = yaml.safe_load((FOLDER / 'downtown.yaml').read_text()) | change
    with pytest.raises(ConfigError, match=told):
        WorldSpec.from_dict(data, 'mine.yaml')


def test_missing_keys_lists_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="missing keys .*'layout'"):
        WorldSpec.from_dict({'name': 'x'})
    with pytest.raises(ConfigError, match='found list'):
        WorldSpec.from_dict([1])
    with pytest.raises(ConfigError, match='highway'):
        load_world('moon')
    broken = tmp_path / 'broken.yaml'
    broken.write_text('a: [')
    with pytest.raises(ConfigError, match='not readable as YAML'):
        load_world(str(broken))
