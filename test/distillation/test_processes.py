"""Labelling and training in several processes, and runs that are killed again and again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
import random
import runpy
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
import torch
import yaml

from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.distillation.labelling_log import LABELLING_LOG
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build

SCRIPT = Path(__file__).with_name('several.py')
runpy.run_path(str(SCRIPT))  # its network is known here, too
# Twenty for the full count; each costs the start of a process.
KILLS = int(os.environ.get('KD_PERCEPTION_KILLS', '2'))


def command(*words: object, processes: int = 1) -> list[str]:
    start = [sys.executable]
    if processes > 1:
        start += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node',
                  str(processes)]
    return [*start, str(SCRIPT), *map(str, words)]


def run(*words: object, processes: int = 1) -> None:
    done = subprocess.run(command(*words, processes=processes), capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory, driving: ClassSet) -> Path:
    """Return a folder with a teacher and a recipe of the network without batch norm."""
    folder = tmp_path_factory.mktemp('several')
    spec = BundleSpec(name='teacher', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(32, 48), network=NetworkSpec('plain', {'width': 16}))
    save_bundle(folder / 'teacher', build(spec.network, len(driving)), spec)
    (folder / 'recipe.yaml').write_text(yaml.safe_dump({
        'name': 'student', 'network': {'builder': 'plain'}, 'input': {'height': 32, 'width': 48},
        'data': {'defaults': {'classes': 'driving'}},
        # Views inside of the frame: every process has as many pixels that count.
        'augment': {'crop': [24, 32], 'scale': [1.0, 1.2]},
        'optimization': {'steps': 40, 'batch_size': 8, 'precision': 'fp32', 'ema_decay': 0.9,
                         'learning_rate': 0.01, 'checkpoint_minutes': 0.0, 'log_every': 1}}))
    return folder


def content(folder: Path) -> dict[str, str]:
    # The log of how long labelling took is no part of what the labels are.
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()
            if f.name != LABELLING_LOG}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / 'bundle' / 'weights.safetensors')


def test_two_processes_write_the_cache_of_one(world: Path, bare_stripes: Path,
                                              tmp_path: Path) -> None:
    for count in (1, 2):
        run('label', '--teacher', world / 'teacher', bare_stripes, '--out', tmp_path / str(count),
            '--engine', 'onnxruntime', '--shard-size', 3, processes=count)
    assert content(tmp_path / '1') == content(tmp_path / '2')
    assert len(content(tmp_path / '1')) == 2 * 4 + 1


def test_two_processes_train_as_one_does(world: Path, bare_stripes: Path,
                                         tmp_path: Path) -> None:
    run('label', '--teacher', world / 'teacher', bare_stripes, '--out', tmp_path / 'cache',
        '--engine', 'onnxruntime')
    for count in (1, 2):
        run('distill', world / 'recipe.yaml', '--teacher', world / 'teacher', '--cache',
            tmp_path / 'cache', '--data', bare_stripes, '--out', tmp_path / str(count),
            '--optimization.batch_size', 8 // count, '--no-report', processes=count)
    one, two = weights(tmp_path / '1'), weights(tmp_path / '2')
    begun = build(NetworkSpec('plain', {}), 12).state_dict()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-4), name
        assert not torch.allclose(tensor, begun[name], atol=1e-2), 'nothing was learned'


def killed_again_and_again(words: list[object], out: Path, kills: int) -> int:
    """Run a command to its end, killing it at random moments; return how often it was alive."""
    rng = random.Random(1)
    hit, longest = 0, 12.0
    for _ in range(kills):
        child = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        # From when it writes: the seconds before, while libraries are imported, say nothing.
        begun = time.monotonic()
        seen = {f for f in out.rglob('*') if f.is_file()} if out.exists() else set()
        while child.poll() is None and time.monotonic() - begun < longest:
            if out.exists() and any(f not in seen for f in out.rglob('*') if f.is_file()):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        hit += child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    run(*words)
    return hit


def test_a_labelling_that_is_killed_ends_with_the_same_bytes(world: Path, stripes: Path,
                                                             tmp_path: Path) -> None:
    words: list[object] = ['label', '--teacher', world / 'teacher', stripes, '--engine',
                           'onnxruntime', '--shard-size', 1, '--out']
    run(*words, tmp_path / 'whole')
    assert killed_again_and_again([*words, tmp_path / 'cache'], tmp_path / 'cache', KILLS)
    whole = {*content(tmp_path / 'whole'), LABELLING_LOG}
    left = [f for f in (tmp_path / 'cache').iterdir() if f.name not in whole]
    for file in left:
        assert file.name.startswith('.manifest.json.'), 'half-written shards go in the end'
        file.unlink()
    assert content(tmp_path / 'cache') == content(tmp_path / 'whole')


def test_a_training_that_is_killed_ends_with_the_same_weights(world: Path, stripes: Path,
                                                              tmp_path: Path) -> None:
    words: list[object] = ['train', world / 'recipe.yaml', '--data', stripes, '--no-report',
                           '--optimization.steps', 60 + 40 * KILLS, '--out']
    run(*words, tmp_path / 'whole')
    assert killed_again_and_again([*words, tmp_path / 'run'], tmp_path / 'run', KILLS)
    one, two = weights(tmp_path / 'whole'), weights(tmp_path / 'run')
    assert all(torch.equal(one[name], two[name]) for name in one)
