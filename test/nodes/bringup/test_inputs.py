"""What is found before a node starts."""

import pytest

from kd_perception.errors import BagError, BundleError, ConfigError
from kd_perception.nodes.bringup.inputs import check_inputs
from kd_perception.nodes.bringup.launch_arguments import FILES


def graph(**values):
    launch_file = FILES['ab_comparison']
    texts = {a.name: a.default for a in launch_file.arguments}
    return launch_file.make({**texts, **values})


@pytest.fixture
def models(bundles):
    return {'a': 'one', 'b': str(bundles / 'two'), 'models_dir': str(bundles)}


def test_what_is_there_passes(models, tmp_path):
    check_inputs(graph(**models))
    check_inputs(graph(**models, source='topic', image='/camera'))
    check_inputs(graph(**models, placement='alternate'))
    # What is in the folder is left to the node, whose parameter file may say more of it.
    check_inputs(graph(**models, source='bag', bag=str(tmp_path), truth='required'))


@pytest.mark.parametrize(('given', 'error', 'said'), [
    ({'b': 'three'}, BundleError, "no model named 'three'"),
    ({'b': '/nowhere/three'}, BundleError, '/nowhere/three'),
    ({'scenario': 'hail'}, ConfigError, 'hail'),
    ({'source': 'bag', 'bag': '/nowhere/drive'}, BagError, '/nowhere/drive')])
def test_what_is_missing_is_one_line(models, given, error, said):
    with pytest.raises(error) as refusal:
        check_inputs(graph(**{**models, **given}))
    assert said in str(refusal.value)
    assert '\n' not in str(refusal.value)


def test_names_that_the_parameter_file_may_resolve_are_left_to_the_node():
    check_inputs(graph(a='one', b='night/two'))
