import pytest

from kd_perception.errors import ConfigError
from kd_perception.nodes.parameters import check_values, declare, ParameterSpec, TABLES, value_of


@pytest.mark.parametrize('table', TABLES.values(), ids=TABLES)
def test_every_parameter_is_described_and_its_default_allowed(table):
    assert len({spec.name for spec in table}) == len(table)
    for spec in table:
        assert len(spec.description) > 10
        assert spec.check(spec.default) == ''


@pytest.mark.parametrize(('default', 'value', 'fits'), [
    (1, 2, True), (1, 2.0, False), (1, True, False), (1.0, 2, True), (1.0, '2', False),
    (True, False, True), (True, 1, False), ('a', 'b', True), ('a', 1, False),
    ((), ('a', 'b'), True), ((), (1,), False)])
def test_types(default, value, fits):
    assert (ParameterSpec('p', default, 'text').check(value) == '') == fits


def test_ranges_and_choices_name_the_value():
    assert 'below 0' in ParameterSpec('p', 1, '', minimum=0).check(-1)
    assert 'not a number' in ParameterSpec('p', 1.0, '', minimum=0).check(float('nan'))
    assert 'above 2' in ParameterSpec('p', 1, '', maximum=2).check(3)
    assert "'c' is not one of a, b" in ParameterSpec('p', 'a', '', choices=('a', 'b')).check('c')


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="no parameter 'modle'; known: model"):
        check_values(TABLES['perception'], {'modle': 'x'})


@pytest.mark.parametrize('name', TABLES)
def test_declared_parameters_carry_description_and_range(bench, name):
    node = bench.node
    declare(node, TABLES[name])
    for spec in TABLES[name]:
        described = node.describe_parameter(spec.name)
        assert described.description.startswith(spec.description)
        for choice in spec.choices:
            assert choice in described.description
        limits = [*described.integer_range, *described.floating_point_range]
        assert bool(limits) == (spec.minimum is not None or spec.maximum is not None)
        if spec.minimum is not None:
            assert limits[0].from_value == spec.minimum
        assert value_of(node, spec.name) == spec.default
