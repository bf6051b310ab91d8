"""Losses on layers in real runs: phases, adapters, resuming, several processes, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import json
import math
from pathlib import Path
import subprocess
import sys

import pytest
from safetensors.torch import load_file
import torch
from torch import nn
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.cli.main import main
from kd_perception.distillation.checkpoint import read_state
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.features import (
    build_adapters,
    coarser,
    require_layers_of,
    student_layers,
    teacher_layers,
)
from kd_perception.distillation.labelling import label
from kd_perception.distillation.losses import build_losses
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.teachers import teacher_set
from kd_perception.distillation.teachers.online import OnlineTeacher
from kd_perception.distillation.teachers.teacher import Lesson
from kd_perception.distillation.trainer import distill
from kd_perception.errors import ConfigError, KdPerceptionError, TrainingError
from kd_perception.frames import Progress
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build, register

Make = Callable[..., Recipe]
Run = Callable[..., ModelBundle]
HEIGHT, WIDTH = 32, 48  # of the toy world
PHASES = {'hint': {'layers': {'encoder.late': 'encoder.late'}, 'end': 0.5},
          'kl': {'start': 0.5}}


class Ladder(nn.Module):
    """An encoder and a decoder whose layers have names."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        self.encoder.early = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width))
        self.encoder.late = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(width, width, 1))
        self.decoder = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(0.1),
                                     nn.Conv2d(width, num_classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


@register('ladder')
def ladder(num_classes: int, width: int = 6) -> nn.Module:
    return Ladder(num_classes, width)


@pytest.fixture(scope='module')
def guide(tmp_path_factory: pytest.TempPathFactory, driving: ClassSet) -> ModelBundle:
    """Return a teacher of the same kind as the student, with more channels."""
    torch.manual_seed(5)
    spec = BundleSpec(name='ladder_teacher', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(HEIGHT, WIDTH), network=NetworkSpec('ladder', {'width': 9}))
    return save_bundle(tmp_path_factory.mktemp('bundles') / 'guide',
                       build(spec.network, len(driving)), spec)


@pytest.fixture(scope='module')
def cache(guide: ModelBundle, bare_stripes: Path,
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('soft') / 'cache'
    label(guide, open_source(bare_stripes), out, engine='onnxruntime')
    return out


@pytest.fixture
def recipe(make_recipe: Make, bare_stripes: Path) -> Make:
    def make(losses: dict, **more: object) -> Recipe:
        return make_recipe(**{'train': bare_stripes, 'network': {'builder': 'ladder'},
                              'distillation': {'losses': losses}, **more})
    return make


def events(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / 'train.jsonl').read_text().splitlines()]
    return [line for line in lines if line['event'] == 'train']


def last(run: Path, prefix: str = 'network.') -> dict[str, torch.Tensor]:
    tensors = load_file(run / 'checkpoints' / 'last.safetensors')
    return {n[len(prefix):]: t for n, t in tensors.items() if n.startswith(prefix)}


def test_layers_are_gathered_once_and_adapters_by_loss() -> None:
    losses = build_losses({
        'hint': {'layers': {'a': 'x', 'b': 'y'}},
        'relational': {'layers': {'b': 'x'}}, 'kl': {}})
    assert student_layers(losses.values()) == ('a', 'b')
    assert teacher_layers(losses.values()) == ('x', 'y')
    adapters = build_adapters(losses, {'a': (2, 4, 4), 'b': (3, 4, 4)},
                              {'x': (5, 4, 4), 'y': (6, 2, 2)})
    assert list(adapters) == ['hint']
    # One that is switched off needs no layer, and no adapter that would wait for a gradient.
    off = build_losses({'hint': {'layers': {'a': 'x'}, 'weight': 0}, 'kl': {}})
    assert student_layers(off.values()) == teacher_layers(off.values()) == ()
    assert not build_adapters(off, {}, {})
    require_layers_of(off, NetworkSpec('ladder'), 12, None)


def test_penalties_leave_alone_what_learns_nothing_yet(
        recipe: Make, guide: ModelBundle, cache: Path, tmp_path: Path,
        stopped_at: Callable[..., Progress]) -> None:
    asked = recipe(PHASES, steps=12, l2=0.5)
    with pytest.raises(KeyboardInterrupt):
        distill(asked, tmp_path / 'run', teacher=guide, cache_dir=cache,
                progress=stopped_at(5))
    torch.manual_seed(asked.seed)
    fresh, now = build(NetworkSpec('ladder'), 12).state_dict(), last(tmp_path / 'run')
    changed = {n for n in fresh if not torch.equal(fresh[n], now[n])}
    assert changed == {n for n in fresh if n.startswith('encoder.')}
    assert {'hint', 'l2'} <= events(tmp_path / 'run')[0].keys()


def test_the_finer_map_is_brought_to_the_coarser() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    one, two = coarser(ramp, torch.zeros(1, 2, 8, 4))
    assert one.shape == (1, 1, 4, 4)
    assert two.shape == (1, 2, 4, 4)
    # Away from the border a ramp stays one.
    torch.testing.assert_close(one[0, 0, 0, 1:3], torch.tensor([2.5, 4.5]))


def test_in_the_first_phase_only_layers_up_to_the_hint_change(
        recipe: Make, guide: ModelBundle, cache: Path, tmp_path: Path,
        stopped_at: Callable[..., Progress]) -> None:
    asked = recipe(PHASES, weight_decay=0.5)
    for stop in (1, 5, 8):  # one step, the end of the first phase, well in the second
        with pytest.raises(KeyboardInterrupt):
            distill(asked, tmp_path / str(stop), teacher=guide, cache_dir=cache,
                    progress=stopped_at(stop))
    first, early, late = (last(tmp_path / str(stop)) for stop in (1, 5, 8))
    behind = [n for n in first if n.startswith('decoder.')]
    before = [n for n in first if n not in behind]
    assert len(behind) == 7
    torch.manual_seed(asked.seed)
    fresh = build(NetworkSpec('ladder'), 12).state_dict()
    # Neither gradient nor weight decay nor statistics: not a bit of the decoder is touched.
    assert all(torch.equal(fresh[n], early[n]) for n in behind)
    assert all(not torch.equal(fresh[n], first[n]) for n in before)
    assert all(not torch.equal(first[n], early[n]) for n in before)
    assert all(not torch.equal(early[n], late[n]) for n in (*before, *behind))
    terms = [set(e) & {'hint', 'kl'} for e in events(tmp_path / '8')]
    assert terms == [{'hint'}] * 6 + [{'kl'}] * 2
    adapters = [last(tmp_path / str(stop), 'adapters.') for stop in (1, 5, 8)]
    assert {n: tuple(t.shape) for n, t in adapters[0].items()} == {
        'hint.encoder/late.weight': (9, 6, 1, 1), 'hint.encoder/late.bias': (9,)}
    assert all(not torch.equal(adapters[0][n], adapters[1][n]) for n in adapters[0])


@pytest.mark.parametrize('stop', [3, 9])
def test_it_resumes_to_the_bit_in_either_phase_and_exports_no_adapter(
        recipe: Make, guide: ModelBundle, cache: Path, tmp_path: Path, stop: int,
        stopped_at: Callable[..., Progress]) -> None:
    asked = recipe(PHASES)
    whole = distill(asked, tmp_path / 'whole', teacher=guide, cache_dir=cache)
    with pytest.raises(KeyboardInterrupt):
        distill(asked, tmp_path / 'run', teacher=guide, cache_dir=cache, progress=stopped_at(stop))
    assert read_state(tmp_path / 'run' / 'checkpoints' / 'last.safetensors')['step'] == stop
    resumed = distill(asked, tmp_path / 'run', teacher=guide, cache_dir=cache)
    one, two = (load_file(b.file('weights.safetensors')) for b in (whole, resumed))
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert one.keys() == build(NetworkSpec('ladder'), 12).state_dict().keys()
    for prefix in ('network.', 'adapters.', 'optimizer.', 'average.'):
        one, two = (last(tmp_path / name, prefix) for name in ('whole', 'run'))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(('losses', 'precision'), [
    ({'hint': {'layers': {'encoder.late': 'encoder.late'}}}, 'fp32'),
    ({'attention_transfer': {'layers': {'encoder.late': 'encoder.late'}}}, 'bf16'),
    ({'relational': {'layers': {'encoder.late': 'encoder.late'}, 'regions': 2}}, 'bf16')])
def test_the_student_comes_to_say_what_the_teacher_says_inside(
        recipe: Make, guide: ModelBundle, cache: Path, tmp_path: Path, losses: dict,
        precision: str) -> None:
    asked = recipe(losses, steps=80, validate_every=80, precision=precision, schedule='constant')
    distill(asked, tmp_path / 'run', teacher=guide, cache_dir=cache)
    name, = losses
    values = [e[name] for e in events(tmp_path / 'run')]
    assert sum(values[-10:]) < 0.5 * sum(values[:10])


def test_the_command_line_chooses_layers(guide: ModelBundle, cache: Path, bare_stripes: Path,
                                         recipe: Make, tmp_path: Path,
                                         capsys: pytest.CaptureFixture) -> None:
    plain = recipe({'kl': {}}, steps=2).to_dict()
    plain['data']['train'] = []
    file = tmp_path / 'recipe.yaml'
    file.write_text(yaml.safe_dump(plain))
    base = ['distill', str(file), '--teacher', str(guide.path), '--cache', str(cache), '--data',
            str(bare_stripes), '--out', str(tmp_path / 'run'), '--no-report']
    option = '--distillation.losses.attention_transfer.layers'
    assert main([*base, option, '{encoder.lat: encoder.late}']) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the student has no layer 'encoder.lat'; did you mean encoder.late" in said
    assert not (tmp_path / 'run').exists()
    assert main([*base, option, '{encoder.late: encoder.early}']) == 0
    assert {'kl', 'attention_transfer'} <= events(tmp_path / 'run')[0].keys()


def test_what_cannot_be_compared_is_refused_before_anything_is_written(
        recipe: Make, guide: ModelBundle, cache: Path, tmp_path: Path) -> None:
    def refused(kind: type[KdPerceptionError], match: str, losses: dict,
                teacher: ModelBundle | None = guide, **more: object) -> None:
        with pytest.raises(kind, match=match):
            distill(recipe(losses, **more), tmp_path / 'run', teacher=teacher, cache_dir=cache)
        assert not (tmp_path / 'run').exists()

    refused(ConfigError, "teacher ladder_teacher has no layer 'encoder.latte'; did you mean enc",
            {'hint': {'layers': {'encoder.late': 'encoder.latte'}}})
    # A loss that begins late must not fail late.
    relational = {'relational': {'layers': {'encoder.late': 'encoder.late'}, 'start': 0.5},
                  'kl': {}}
    refused(ConfigError, r'^distillation.losses.relational.regions: with 1 and batch_size 2 there '
            'are 2 embeddings', relational, batch_size=2)
    refused(ConfigError, "the student has no layer 'encoder.latte'",
            {'hint': {'layers': {'encoder.latte': 'encoder.late'}}})
    losses = build_losses({'hint': {'layers': {'encoder.late': 'encoder.late'}}})
    foreign = BundleSpec(name='f', task='segmentation', role='teacher',
                         classes=guide.spec.classes, input=guide.spec.input)
    for bundle, said in ((None, 'imported labels have none'),
                         (ModelBundle(guide.path, foreign, {}, ''), 'is a foreign graph, whose')):
        with pytest.raises(TrainingError, match=f"^loss 'hint' looks at layers of .*{said}"):
            require_layers_of(losses, NetworkSpec('ladder'), 12, bundle)


def test_a_teacher_in_the_loop_gives_logits_and_layers_at_once(
        recipe: Make, guide: ModelBundle, cache: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counted(OnlineTeacher):
        def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
            calls.append('all')
            return super().teach(batch, grid)

        def look_inside(self, batch: Batch) -> dict[str, torch.Tensor]:
            calls.append('layers')
            return super().look_inside(batch)

    monkeypatch.setattr(teacher_set, 'OnlineTeacher', Counted)
    losses = {'hint': {'layers': {'encoder.late': 'encoder.late'}, 'end': 0.5},
              'kl': {'start': 0.25}}
    for view, given in (('online', None), ('warp', cache)):
        calls.clear()
        asked = recipe(losses, steps=4, validate_every=4)
        asked = replace(asked, distillation=replace(asked.distillation, view=view))
        distill(asked, tmp_path / view, teacher=guide, cache_dir=given)
        steps = {'online': ['layers', 'all', 'all', 'all'], 'warp': ['layers', 'layers']}[view]
        validation = {'online': ['all'] * 3, 'warp': []}[view]
        # One look at nothing for the shapes; none where soft labels say all that is asked.
        assert calls == ['layers', *steps, *validation]


_PROCESS = '''
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import conftest
import test_features
from kd_perception.bundle import load_bundle
from kd_perception.distillation import loop, trainer
from kd_perception.distillation.recipe_file import load_recipe
import torch
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
class Watched(loop.Loop):
    def fit(self):
        state = super().fit()
        assert isinstance(self._learner, DistributedDataParallel)
        tensors = self._learner.module.state_dict()
        assert any('running' in name for name in tensors)
        for name, tensor in [*tensors.items(), *self.shipped.state_dict().items()]:
            mine = tensor.float().clone()
            torch.distributed.broadcast(mine, 0)
            assert torch.equal(mine, tensor.float()), name
        return state
trainer.Loop = Watched
root = Path({root!r})
trainer.distill(load_recipe(root / 'recipe.yaml'), root / 'run', teacher=load_bundle({teacher!r}),
                cache_dir={cache!r})
'''


def test_two_processes_keep_adapters_and_phases_together(
        recipe: Make, guide: ModelBundle, cache: Path, tmp_path: Path) -> None:
    asked = recipe(PHASES, batch_size=2, weight_decay=0.5, validate_every=12)
    (tmp_path / 'recipe.yaml').write_text(yaml.safe_dump(asked.to_dict()))
    script = tmp_path / 'process.py'
    script.write_text(_PROCESS.format(path=[str(Path(__file__).parent)], root=str(tmp_path),
                                      teacher=str(guide.path), cache=str(cache)))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                           '--nproc_per_node', '2', str(script)], timeout=150,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    terms = [set(e) & {'hint', 'kl'} for e in events(tmp_path / 'run')]
    assert terms == [{'hint'}] * 6 + [{'kl'}] * 6
    assert all(math.isfinite(e['loss']) for e in events(tmp_path / 'run'))
    assert set(last(tmp_path / 'run', 'adapters.'))
