"""Recipes with what the command line says."""

from __future__ import annotations

import argparse

import pytest

from kd_perception.cli.recipe_arguments import add_recipe_arguments, recipe_from_arguments
from kd_perception.distillation.recipe import Recipe
from kd_perception.errors import ConfigError


def recipe(*words: str) -> Recipe:
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    return recipe_from_arguments(parser.parse_args([*words, '--out', 'o']))


@pytest.mark.parametrize(('name', 'words', 'expected'), [
    ('student_camvid', (), (0, 100)),
    ('student_camvid', ('--optimization.steps', '20'), (20, 0)),
    ('student_sim', (), (3000, 0)),
    ('student_sim', ('--optimization.epochs', '2'), (0, 2)),
    ('student_sim', ('--optimization.steps', '7'), (7, 0))])
def test_one_length_of_a_run_replaces_the_other(name, words, expected):
    made = recipe(name, *words).optimization
    assert (made.steps, made.epochs) == expected


def test_both_lengths_are_refused():
    with pytest.raises(ConfigError, match='exclude each other'):
        recipe('student_sim', '--optimization.steps', '7', '--optimization.epochs', '2')
