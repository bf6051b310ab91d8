import pytest

from kd_perception.errors import ConfigError
from kd_perception.nodes.parameters import check_values, declare, ParameterSpec, TABLES, value_of
from kd_perception.nodes.unknown_parameters import unknown_parameters


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


def describe(bench, names):
    """Ask as ``ros2 param describe`` does."""
    from rcl_interfaces.srv import DescribeParameters

    return bench.call(DescribeParameters, '/perception/describe_parameters',
                      DescribeParameters.Request(names=names)).descriptors


def test_the_service_tells_type_range_choices_and_when_to_set(bench):
    from rcl_interfaces.msg import ParameterType

    from kd_perception.nodes.perception.node import PerceptionNode

    with bench.running(PerceptionNode, autostart=False):
        table = TABLES['perception']
        told = dict(zip((s.name for s in table), describe(bench, [s.name for s in table])))
        for spec in table:
            assert told[spec.name].description == spec.text
            assert told[spec.name].additional_constraints == spec.settable
            assert told[spec.name].read_only == spec.read_only
            assert told[spec.name].type != ParameterType.PARAMETER_NOT_SET
        limits = told['confidence_threshold'].floating_point_range[0]
        assert (limits.from_value, limits.to_value) == (0.0, 1.0)
        assert told['threads'].integer_range[0].to_value == 1024
        assert 'any time' in told['model'].additional_constraints
        assert 'unconfigured' in told['cameras'].additional_constraints
        assert told['autostart'].read_only
        result = bench.set_parameters('/perception', autostart=True)[0]
        assert not result.successful
        assert 'read-only' in result.reason


@pytest.mark.parametrize('name', ['camera', 'monitor', 'shadow'])
def test_what_is_read_once_cannot_be_set_in_vain(name):
    assert all(spec.read_only for spec in TABLES[name])


def test_mistyped_parameters_of_a_file_are_named(bench, tmp_path, capfd):
    from rclpy.logging import LoggingSeverity, set_logger_level

    from kd_perception.nodes.perception.node import PerceptionNode

    path = tmp_path / 'params.yaml'
    path.write_text('/**:\n  ros__parameters:\n    confidence_treshold: 0.5\n    zzz: 1\n'
                    '    autostart: false\n    use_sim_time: false\n'
                    '    qos_overrides:\n      /image:\n        subscription:\n'
                    '          depth: 2\n')
    set_logger_level('car.perception', LoggingSeverity.WARN)

    def make(**given):
        return PerceptionNode(cli_args=['--ros-args', '--params-file', str(path)], **given)

    with bench.running(make, namespace='car'):
        said = ''

        def heard():
            nonlocal said
            said += capfd.readouterr().err
            return 'without effect' in said and said.endswith('\n')

        bench.spin_until(heard)
    told, = (line for line in said.splitlines() if 'without effect' in line)
    assert told.endswith('without effect: confidence_treshold (did you mean '
                         'confidence_threshold?), zzz')


@pytest.mark.parametrize(('given', 'hint'), [
    ('hang_timeout_s:=5', 'hang_timeout_s: must be a number with a decimal point, e.g. 5.0'),
    ('model:=5', 'model: must be text; digits alone need quotes'),
    ('threads:=2.0', 'threads: must be a whole number'),
    ('autostart:=1', 'autostart: must be true or false'),
    ('cameras:=front', r'cameras: must be a list of texts, e.g. \[front, rear\]')])
def test_a_value_of_another_type_is_answered_with_how_to_write_it(bench, given, hint):
    from kd_perception.nodes.perception.node import PerceptionNode

    with pytest.raises(ConfigError, match=f'parameter {hint}'):
        PerceptionNode(context=bench.context, cli_args=['--ros-args', '-p', given])


def test_known_names_and_later_ones_are_no_mistakes():
    assert unknown_parameters({'model', 'qos_overrides./image.subscription.depth'},
                              {'model'}) == ''
