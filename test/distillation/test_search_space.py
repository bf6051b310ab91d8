from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.search_space import as_text, Dimension, read_space
from kd_perception.errors import ConfigError

PLAIN = {'name': 'r', 'network': {'builder': 'compact'}, 'input': {'height': 32, 'width': 32},
         'optimization': {'steps': 5}}


def test_flat_and_nested_keys_are_the_same() -> None:
    flat = {'optimization.learning_rate': {'low': '1e-4', 'high': 0.01, 'log': True},
            'distillation.losses.kl.temperature': {'choices': [1, 2, 4]}}
    nested = {'optimization': {'learning_rate': flat['optimization.learning_rate']},
              'distillation': {'losses': {'kl': {'temperature': {'choices': [1, 2, 4]}}}}}
    assert read_space(flat) == read_space(nested)
    assert read_space(flat)['optimization.learning_rate'] == Dimension(low=1e-4, high=0.01,
                                                                       log=True)
    one, two = (recipe_from_dict({**PLAIN, 'search': s}) for s in (flat, nested))
    assert one == two
    assert one.search == {k: d.to_dict() for k, d in read_space(flat).items()}
    assert recipe_from_dict(one.to_dict()) == one


@pytest.mark.parametrize(('section', 'message'), [
    (['a'], 'search: must be a mapping'),
    ({'seed': 3}, r'search.seed: must be {low: …, high: …, log: false} or {choices: \[…\]}'),
    ({'seed': {'low': 1}}, 'search.seed: a range has low, high and log, not low'),
    ({'seed': {'low': 1, 'high': 2, 'step': 1}}, 'search.seed: a range has low, high and log'),
    ({'seed': {'low': 2, 'high': 2}}, 'search.seed: needs low < high'),
    ({'seed': {'low': 0, 'high': 2, 'log': True}}, 'with log: true a low above 0'),
    ({'seed': {'low': 'a', 'high': 2}}, "search.seed.low: must be a number, not 'a'"),
    ({'seed': {'low': True, 'high': 2}}, 'search.seed.low: must be a number, not True'),
    ({'seed': {'choices': []}}, 'choices must be a list of values'),
    ({'seed': {'choices': [1], 'low': 1}}, 'and all that is given')])
def test_what_is_no_space_is_refused_with_its_key(section: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f'recipe.{message}' if message.startswith('search')
                       else message):
        recipe_from_dict({**PLAIN, 'search': section})


def test_a_choice_is_known_in_another_type_of_number() -> None:
    choices = read_space({'a': {'choices': [1, 2, True, 'sgd', None]}})['a']
    assert choices.stored(2.0) == choices.stored(2) == '2'
    assert choices.holds(2.0)
    assert choices.stored(True) == 'true'
    assert [choices.holds(v) for v in ('sgd', None, False, 2.5)] == [True, True, False, False]


def test_whole_numbers_and_fractions() -> None:
    whole = read_space({'a': {'low': 1, 'high': 8}})['a']
    assert whole.whole
    assert whole.fitting(3).whole
    assert not whole.fitting(3.0).whole
    assert whole.holds(4)
    assert not whole.holds(4.5)
    assert not whole.holds(9)
    assert not whole.holds(True)
    assert isinstance(whole.stored(4.0), int)
    assert read_space({'a': {'low': 1.0, 'high': 8}})['a'].holds(4.5)


def test_choices_of_any_kind_come_back() -> None:
    choices = [1, 'adamw', None, 0.5, {'width': 3}, [1, 2]]
    dimension = read_space({'a': {'choices': choices}})['a']
    assert [dimension.meant(dimension.stored(c)) for c in choices] == choices
    assert dimension.holds({'width': 3})
    assert not dimension.holds('sgd')
    assert [yaml.safe_load(as_text(c)) for c in [*choices, 1e-5, 3e20]] == [*choices, 1e-5, 3e20]


def test_what_is_chosen_to_learn_from_is_no_choice_of_what_to_measure_on(tmp_path: Path) -> None:
    data = {'defaults': {'selection': 's.json', 'labels': False, 'classes': 'driving'},
            'train': [str(tmp_path)], 'validation': [str(tmp_path)]}
    recipe: Recipe = recipe_from_dict({**PLAIN, 'data': data})
    learn, check = recipe.data.train[0], recipe.data.validation[0]
    assert (Path(learn.selection).name, learn.labels) == ('s.json', False)
    assert Path(learn.selection).is_absolute()
    assert (check.selection, check.labels, check.classes) == ('', True, 'driving')
