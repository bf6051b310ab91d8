import pytest
import yaml

from kd_perception.fast_yaml import load_yaml


def test_the_same_as_the_slow_loader():
    text = 'a: [1, 2.5, on, null, "x"]\nb:\n  - {c: é, d: 2024-01-01}\n'
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize('text', ['[' * 50_000, '{a: ' * 50_000, '- ' * 50_000, 'a: [1', '\0'])
def test_what_is_no_yaml_is_an_error(text):
    with pytest.raises((yaml.YAMLError, RecursionError)):
        load_yaml(text)


def test_no_objects_are_made():
    with pytest.raises(yaml.YAMLError):
        load_yaml('!!python/object/apply:os.getcwd []')
