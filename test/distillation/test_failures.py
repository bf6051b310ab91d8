"""What a run says and leaves when a loss is not finite or memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
import json
from pathlib import Path
import platform
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from kd_perception.bags.source import open_source
from kd_perception.bundle import ModelBundle
from kd_perception.distillation import loop, pooled_features
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.failed_batch import save_failed_batch
from kd_perception.distillation.labelling import label
from kd_perception.distillation.memory import asked_for, is_out_of_memory, memory_advice
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.selection import Models, select
from kd_perception.distillation.teachers import network
from kd_perception.distillation.trainer import distill, train
from kd_perception.distillation.views import ViewPlan
from kd_perception.engines.onnxruntime_engine import _reason
from kd_perception.engines.openvino_engine import _last_line
from kd_perception.errors import EngineError, TrainingError
from kd_perception.networks.registry import register
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]


@register('broken_toy')
class Broken(torch.nn.Module):
    """
    Says NaN from a batch on.

    :param healthy: batches before.
    :param gradient: whether it is the gradient alone that breaks.
    """

    def __init__(self, num_classes: int, healthy: int = 2, gradient: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, num_classes, 1)
        self.healthy = healthy
        self.gradient = gradient
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        logits = self.layer(x)
        if self.calls <= self.healthy or not self.training:
            return logits
        if self.gradient:
            # The slope of a root at 0 is infinite, its value is not.
            return logits + (logits - logits.detach()).square().sqrt()
        return logits * float('nan')


@register('hungry_toy')
class Hungry(torch.nn.Module):
    """
    Asks for four petabytes.

    :param where: ``train`` or ``eval``.
    """

    def __init__(self, num_classes: int, where: str = 'train') -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, num_classes, 1)
        self.where = where

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training == (self.where == 'train'):
            torch.empty(10 ** 15)
        return self.layer(x)


def broken(**arguments: object) -> dict:
    return {'builder': 'broken_toy', 'arguments': arguments}


def test_a_loss_of_nan_is_named_with_its_step_and_its_pictures_are_kept(
        make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss term 'cross_entropy' is nan at step 2 .*frames "
                       r'of the batch: train \d{4}\.png at \d+\.\d{9}, train .*…; '
                       'its pictures and labels are in .*failed_batch; lower ') as caught:
        train(make_recipe(network=broken()), tmp_path / 'run')
    assert '\n' not in str(caught.value)
    folder = tmp_path / 'run' / 'failed_batch'
    told = json.loads((folder / 'batch.json').read_text())
    assert (told['step'], told['cross_entropy']) == (2, 'nan')
    assert len(told['frames']) == len(told['names']) == 4
    for key, name in zip(told['frames'], told['names'], strict=True):
        assert name.startswith(f'train {int(key.rpartition(":")[2]):04d}.png at ')
    for index in range(4):
        image = cv2.imread(str(folder / f'{index:02d}.png'))
        ids = cv2.imread(str(folder / f'{index:02d}_labels.png'), cv2.IMREAD_UNCHANGED)
        assert image.shape == (24, 32, 3)
        assert ids.shape == (24, 32)
        # The views as the network saw them: one colour per class, up to noise and light.
        for one in np.setdiff1d(ids, 255):
            assert image[ids == one].std(0).max() < 60
    assert not (folder / 'soft_labels.npz').exists()


def test_soft_labels_and_the_term_that_failed_are_kept(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path) -> None:
    label(teacher, open_source(bare_stripes), tmp_path / 'cache', engine='onnxruntime',
          codec=SoftLabelCodec(stride=2))
    recipe = make_recipe(train=bare_stripes, network=broken(),
                         distillation={'losses': {'mse': {}, 'dist': {}}})
    with pytest.raises(TrainingError, match=r"loss term 'mse' is nan at step 2"):
        distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / 'cache')
    folder = tmp_path / 'run' / 'failed_batch'
    with np.load(folder / 'soft_labels.npz') as kept:
        assert kept['soft'].shape == (4, 12, 16, 24)
        assert np.isfinite(kept['soft']).all()
        assert kept['theta'].shape == (4, 2, 3)
    assert sorted(p.name for p in folder.glob('*.png')) == [f'{i:02d}.png' for i in range(4)]


def test_what_further_teachers_say_is_kept_too(tmp_path: Path) -> None:
    soft, winners = torch.randn(1, 3, 2, 2), torch.ones(1, 4, 4, dtype=torch.uint8)
    batch = Batch(('a',), torch.zeros(1, 4, 4, 3, dtype=torch.uint8),
                  torch.full((1, 4, 4), 255, dtype=torch.uint8), torch.zeros(1, 2, 3), soft,
                  winners, ((2 * soft, None),))
    for _ in range(2):
        said = save_failed_batch(tmp_path / 'failed', batch, {'step': 1, 'kl': float('inf')})
        assert said.endswith(str(tmp_path / 'failed'))
    with np.load(tmp_path / 'failed' / 'soft_labels.npz') as kept:
        assert set(kept) == {'theta', 'soft', 'winners', 'soft_1'}
        np.testing.assert_array_equal(kept['soft_1'], 2 * soft)
    assert json.loads((tmp_path / 'failed' / 'batch.json').read_text()) == {
        'step': 1, 'kl': 'inf', 'frames': ['a'], 'names': []}
    assert [p.name for p in tmp_path.iterdir()] == ['failed']


def test_a_gradient_that_is_not_finite_is_kept_too(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='the gradient is nan at step 2; its pictures'):
        train(make_recipe(network=broken(gradient=True)), tmp_path / 'run')
    told = json.loads((tmp_path / 'run' / 'failed_batch' / 'batch.json').read_text())
    assert told['gradient'] == 'nan'
    assert told['cross_entropy'] > 0


def test_a_failure_in_the_first_step_holds_back_no_other_try(make_recipe: Make,
                                                             tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='is nan at step 0'):
        train(make_recipe(network=broken(healthy=0)), tmp_path / 'run')
    assert [p.name for p in (tmp_path / 'run').iterdir()] == ['failed_batch']
    train(make_recipe(steps=1), tmp_path / 'run')
    assert not (tmp_path / 'run' / 'failed_batch').exists()


def test_overwriting_a_run_removes_its_failed_batch(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(make_recipe(network=broken()), tmp_path / 'run')
    train(make_recipe(steps=1), tmp_path / 'run', overwrite=True)
    assert not (tmp_path / 'run' / 'failed_batch').exists()


def test_a_batch_that_cannot_be_saved_does_not_hide_the_error(
        make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(network=broken())

    def occupy(done: int, total: int, note: str) -> None:
        if 'loss' in note:
            (tmp_path / 'run' / '.failed_batch.tmp').touch()

    with pytest.raises(TrainingError, match=r"'cross_entropy' is nan .*its pictures could not be "
                       r'saved \(.*exists'):
        train(recipe, tmp_path / 'run', progress=occupy)


@pytest.mark.parametrize(('where', 'message'), [
    ('train', r'out of memory on cpu at step 0 with batch_size 4, crop 24×32, precision fp32: '
     r'3.73e\+06 GiB more were asked for; lower optimization.batch_size or augment.crop, or set '
     'optimization.precision to bf16'),
    ('eval', r'out of memory on cpu in validation \(fp32, whole frames\): .*; lower input.height'),
])
def test_too_little_memory_says_what_to_lower(make_recipe: Make, tmp_path: Path, where: str,
                                              message: str) -> None:
    network = {'builder': 'hungry_toy', 'arguments': {'where': where}}
    with pytest.raises(TrainingError, match=message) as caught:
        train(make_recipe(network=network), tmp_path / 'run')
    assert '\n' not in str(caught.value)


# Words of torch 2.12 and of numpy 2.
CUDA = ('CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB '
        'of which 1.02 GiB is free.')
CPU = ("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
       'you tried to allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)')
WINDOWS = ('[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: you '
           'tried to allocate 4294967296 bytes.')
# Of ONNX Runtime 1.31 and OpenVINO 2026.4, whole.
ORT_CPU = ('[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv '
           "node. Name:'/down/0/conv/Conv' Status Message: /onnxruntime_src/onnxruntime/core/"
           'framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, '
           'bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size '
           '3276800000\n')
ORT_CUDA = ORT_CPU.replace('Failed to allocate memory for requested buffer of size 3276800000',
                           'CUDA failure 2: out of memory ; GPU=0')
OPENVINO = ('Exception from src/inference/src/cpp/infer_request.cpp:223:\n'
            'Failed to allocate 3276800000 bytes of memory\n')


@pytest.mark.parametrize(('error', 'asked'), [
    (torch.OutOfMemoryError(CUDA), '2.50 GiB'), (RuntimeError(CPU), '4 GiB'),
    (RuntimeError(WINDOWS), '4 GiB'), (MemoryError('Unable to allocate 3.64 TiB for an array'),
                                       '3.64 TiB'),
    (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`'), ''),
    (EngineError(f'onnxruntime failed: {_reason(RuntimeError(ORT_CPU))}'), ''),
    (EngineError(f'onnxruntime failed: {_reason(RuntimeError(ORT_CUDA))}'), ''),
    (EngineError(f'openvino failed: {_last_line(RuntimeError(OPENVINO))}'), ''),
    (EngineError('openvino failed: Unable to allocate 4.00 TiB for an array with shape (1,)'),
     '4.00 TiB'),
    (EngineError('openvino failed: std::bad_alloc'), ''), (EngineError('CUDA: out of memory'), ''),
    (EngineError('tensorrt: the GPU has too little memory for this network'), '')])
def test_all_ways_to_run_out_of_memory_are_known(error: Exception, asked: str) -> None:
    assert is_out_of_memory(error)
    assert asked_for(str(error)) == (f': {asked} more were asked for' if asked else '')
    with pytest.raises(TrainingError, match='out of memory on cpu here'), \
            memory_advice(torch.device('cpu'), 'here', 'lower it'):
        raise error


def test_an_engine_that_fails_otherwise_keeps_its_words() -> None:
    with pytest.raises(EngineError, match='no kernel'), \
            memory_advice('cuda', 'here', 'lower it'):
        raise EngineError('onnxruntime failed: no kernel image')


GIVEN_BACK = '''
import sys, torch
from pathlib import Path
from kd_perception.distillation.memory import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory()
def pages():
    return int(Path('/proc/self/statm').read_text().split()[1])
tensor = torch.ones(100_000_000)
before = pages()
del tensor
print((before - pages()) * 4096 // 10 ** 6)
'''


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='is of glibc')
def test_memory_that_was_freed_is_kept() -> None:
    given, kept = (int(subprocess.run([sys.executable, '-c', GIVEN_BACK, how], check=True,
                                      capture_output=True, text=True).stdout)
                   for how in ('give', 'keep'))
    assert given > 300 > 100 > kept


def hungry(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError(CUDA)


def refused(action: Callable[[], object], doing: str) -> None:
    with pytest.raises(TrainingError, match=f'^out of memory on cpu {doing}: 2.50 GiB more were '
                       'asked for; ') as caught:
        action()
    assert '\n' not in str(caught.value)


def test_a_network_that_does_not_fit_is_one_line(make_recipe: Make, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, 'WeightAverage', hungry)
    refused(lambda: train(make_recipe(), tmp_path / 'run'), 'while the network was loaded')
    assert not (tmp_path / 'run').exists()


def test_a_teacher_that_does_not_fit_is_one_line(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(train=bare_stripes, distillation={'view': 'online'})
    views = ViewPlan.of(recipe, 2)
    source = open_source(bare_stripes, limit=2)
    with monkeypatch.context() as patch:
        patch.setattr(network, 'load_module', hungry)
        refused(lambda: distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=None),
                'while the teacher was loaded in fp32')
        refused(lambda: label(teacher, source, tmp_path / 'cache', views=views),
                'while bare was labelled')
    with monkeypatch.context() as patch:
        patch.setattr(pooled_features, 'load_module', hungry)
        refused(lambda: select([source], 'k-center', 1, models=Models(teacher)),
                'while networks looked at the frames')


@pytest.mark.parametrize('error', [torch.OutOfMemoryError(CUDA), RuntimeError(CUDA)])
def test_views_that_do_not_fit_are_one_line(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object) -> None:
        raise error

    views = ViewPlan.of(make_recipe(), 2)
    monkeypatch.setattr(network, '_resized', fail)
    refused(lambda: label(teacher, open_source(bare_stripes), tmp_path / 'cache', views=views),
            'while bare was labelled')


@pytest.mark.parametrize(('healthy', 'ends'), [(2, True), (100, False)])
def test_fp16_does_not_leave_steps_out_for_ever(
        make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: int,
        ends: bool) -> None:
    monkeypatch.setattr(loop, 'choose_precision', lambda wanted, device: 'fp16')
    monkeypatch.setattr(loop, 'autocast', lambda precision, device: nullcontext())
    monkeypatch.setattr(loop, '_MOST_SKIPPED', 5)
    recipe = make_recipe(network=broken(healthy=healthy, gradient=True), steps=12)
    if not ends:
        train(recipe, tmp_path / 'run')
        return
    with pytest.raises(TrainingError, match='the gradient is nan at step 7; '):
        train(recipe, tmp_path / 'run')


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match='shapes differ'), \
            memory_advice(torch.device('cpu'), 'here', 'lower it'):
        raise RuntimeError('shapes differ')
