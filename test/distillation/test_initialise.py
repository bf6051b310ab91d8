"""Students that begin with their teacher's channels, or whose network is their teacher's, slim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
import torch
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, load_bundle, ModelBundle, NetworkSpec
from kd_perception.classes import ClassMap, ClassSet
from kd_perception.distillation.initialise import initialise, resolve_networks
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.teachers.teacher_set import Member, TeacherSet
from kd_perception.distillation.trainer import distill, train
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.networks.deploy import load_module, save_bundle
from kd_perception.networks.registry import build
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]
WIDE = {'builder': 'toy', 'arguments': {'width': 16}}


@pytest.fixture(scope='module')
def cache(teacher: ModelBundle, bare_stripes: Path,
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('labels') / 'cache'
    label(teacher, open_source(bare_stripes), folder, engine='onnxruntime',
          codec=SoftLabelCodec(stride=2))
    return folder


def student(how: str, **more: object) -> dict:
    return {'student': {'from_teacher': how, **more}}


def metrics(run: Path) -> dict:
    return json.loads((run / 'metrics.json').read_text())


def test_a_student_of_all_channels_is_its_teacher_before_it_learns(
        make_recipe: Make, teacher: ModelBundle, cache: Path, bare_stripes: Path,
        tmp_path: Path) -> None:
    # A rate of next to nothing: what comes out is what it began with.
    still = {'learning_rate': 1e-9, 'steps': 1, 'ema_decay': 0, 'weight_decay': 0}
    recipe = make_recipe(train=bare_stripes, network=WIDE, distillation=student('weights'),
                         **still)
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
    own, other = (load_file(b.file('weights.safetensors')) for b in (bundle, teacher))
    for name in ('0.weight', '0.bias', '4.weight', '4.bias'):
        assert torch.allclose(own[name], other[name], atol=1e-6)
    taken = metrics(tmp_path / 'run')['from_teacher']
    assert taken == {'teacher': teacher.hash, 'tensors': 6, 'of_tensors': 6,
                     'share_of_parameters': 1.0, 'fresh': []}
    # The step moved the statistics of batch normalisation by a tenth: the rest is the teacher's.
    assert torch.allclose(own['1.running_var'], other['1.running_var'], atol=0.3)


def test_a_derived_network_is_spelled_out_and_resumes_to_the_bit(
        make_recipe: Make, teacher: ModelBundle, cache: Path, bare_stripes: Path,
        tmp_path: Path, resumes: Callable[..., None]) -> None:
    recipe = make_recipe(train=bare_stripes, network={}, distillation=student('both', ratio=0.5))
    resumes(partial(distill, recipe, teacher=teacher, cache_dir=cache))
    whole = load_bundle(tmp_path / 'whole' / 'bundle')
    channels = {'0': (3, 8), '1': (8,), '4': (8, 0)}
    assert whole.spec.network == NetworkSpec('toy', {'width': 16}, channels)
    resolved = yaml.safe_load((tmp_path / 'whole' / 'recipe.yaml').read_text())['recipe']
    assert resolved['network']['channels'] == {k: list(v) for k, v in channels.items()}
    assert load_module(whole)(torch.zeros(1, 3, 32, 48)).shape == (1, 12, 16, 24)
    assert metrics(tmp_path / 'whole')['from_teacher']['share_of_parameters'] == 1


def test_the_teachers_architecture_alone_begins_with_fresh_weights(
        make_recipe: Make, teacher: ModelBundle, cache: Path, bare_stripes: Path, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    recipe = make_recipe(train=bare_stripes, steps=2,
                         distillation=student('architecture', ratio=0.5))
    with caplog.at_level(logging.INFO):
        bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
    assert 'toy() of the recipe is not looked at' in caplog.text
    assert bundle.spec.network.channels['0'] == (3, 8)
    assert 'from_teacher' not in metrics(tmp_path / 'run')


def test_a_head_for_other_classes_takes_rows_by_name_and_by_map(
        make_recipe: Make, teacher: ModelBundle, driving: ClassSet) -> None:
    classes = ClassSet.from_names('four', ['nothing like it', driving.names[3],
                                           driving.names[0], 'several together'])
    recipe = make_recipe(network=WIDE, distillation=student('weights'))
    table = np.full(256, 255, np.uint8)
    table[[0, 3, 5, 7]] = [2, 1, 3, 3]
    network = build(NetworkSpec('toy', {'width': 16}), 4)
    fresh = network[4].bias[0].clone()
    member = Member(12, teacher, None, ClassMap('driving', 'four', table))
    taken = initialise(network, recipe, classes, TeacherSet(recipe, 4, (member,)))
    donor = load_module(teacher)
    assert torch.equal(network[4].weight[1:], donor[4].weight[[3, 0, 5]])
    assert torch.equal(network[4].bias[0], fresh)
    assert taken is not None
    assert taken['tensors'] == 6
    assert taken['share_of_parameters'] < 1


def test_a_student_with_exits_stands_on_its_teachers_weights(
        make_recipe: Make, teacher: ModelBundle, driving: ClassSet) -> None:
    network = build(NetworkSpec('exits', {'base': 'toy', 'arguments': {'width': 8},
                                          'layers': ['2']}), 12)
    recipe = make_recipe(distillation=student('weights'))
    teachers = TeacherSet(recipe, 12, (Member(12, teacher, None),))
    taken = initialise(network, recipe, driving, teachers)
    assert taken is not None
    assert taken['share_of_parameters'] == 1


def test_what_cannot_be_taken_from_the_teacher_is_refused_in_a_line(
        make_recipe: Make, teacher: ModelBundle, cache: Path, bare_stripes: Path,
        driving: ClassSet, tmp_path: Path) -> None:
    def refused(match: str, teacher: ModelBundle | None, **sections: object) -> None:
        recipe = make_recipe(train=bare_stripes, **sections)
        with pytest.raises((TrainingError, ConfigError), match=match):
            distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
        assert not (tmp_path / 'run').exists()

    both = student('both')
    foreign = replace(teacher, spec=replace(teacher.spec, network=NetworkSpec()))
    refused('student.from_teacher both: .* is a foreign graph without a network spec', foreign,
            distillation=both)
    refused('student.from_teacher both: no teacher is given that has a network', None,
            distillation=both)
    refused('has no channels to leave out at ratio 0.9', teacher,
            distillation=student('both', ratio=0.97))
    spec = BundleSpec(**{**vars(teacher.spec), 'network': NetworkSpec('compact', {'width': 8})})
    other = save_bundle(tmp_path / 'other', build(spec.network, 12), spec)
    label(other, open_source(bare_stripes), tmp_path / 'cache', engine='onnxruntime')
    with pytest.raises(TrainingError, match=r'its network compact\(width=8\) has no layer that '
                                            r'fits toy\(\); set distillation'):
        distill(make_recipe(train=bare_stripes, distillation=student('weights')),
                tmp_path / 'run', teacher=other, cache_dir=tmp_path / 'cache')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('section', 'message'), [
    ({'from_teacher': 'all'}, 'distillation.student.from_teacher: .all. is none of none, weights'),
    ({'channels': 'last'}, 'distillation.student.channels: .last. is none of l1'),
    ({'blocks': 'l1'}, 'distillation.student.blocks'),
    ({'ratio': 2}, 'distillation.student.ratio: 2 is not within 0.01 to 1'),
    ({'rate': 2}, 'distillation.student.rate: unknown key; did you mean .ratio.')])
def test_wrong_settings_are_refused_with_their_path(make_recipe: Make, section: dict,
                                                    message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_recipe(distillation={'student': section})


def test_a_network_must_come_from_somewhere(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='network.builder: is missing; name one, or take'):
        make_recipe(network={})
    with pytest.raises(ConfigError, match='network.channels: .0.: .8. is no list'):
        make_recipe(network={'builder': 'toy', 'channels': {'0': '8'}})
    with pytest.raises(TrainingError, match='train has no teacher to derive a network from'):
        train(make_recipe(network={}, distillation=student('both')), tmp_path / 'run')


def test_assistants_and_student_take_after_each_other(make_recipe: Make,
                                                      teacher: ModelBundle) -> None:
    teacher = replace(teacher, spec=replace(teacher.spec,
                                            network=NetworkSpec('compact', {'width': 64})))
    half = {'student': {'from_teacher': 'architecture', 'ratio': 0.5}}
    recipe = resolve_networks(make_recipe(distillation={
        'assistants': [half, {'network': {'builder': 'compact', 'arguments': {'width': 48}}}],
        **half}), teacher)
    widths = [a.network.arguments['width'] for a in recipe.distillation.assistants]
    assert [*widths, recipe.network.arguments['width']] == [32, 48, 24]


def test_a_student_takes_after_an_assistant_without_its_exits(make_recipe: Make,
                                                              teacher: ModelBundle) -> None:
    exits = {'builder': 'exits', 'arguments': {'base': 'compact', 'arguments': {'width': 32},
                                               'layers': ['down8']}}
    recipe = resolve_networks(make_recipe(distillation={
        'assistants': [{'network': exits}], **student('both')}), teacher)
    assert recipe.network.builder == 'compact'
    assert recipe.network.arguments == {'width': 16}


def test_a_derived_network_has_the_classes_of_the_student(make_recipe: Make,
                                                          teacher: ModelBundle) -> None:
    recipe = make_recipe(classes='camvid', distillation=student('both'))
    network = resolve_networks(recipe, teacher).network
    net = build(NetworkSpec(network.builder, network.arguments, network.channels), 11)
    assert net(torch.zeros(1, 3, 32, 48)).shape == (1, 11, 16, 24)
