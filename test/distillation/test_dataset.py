from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_perception.classes import ClassSet
from kd_perception.distillation.dataset import Batches
from kd_perception.distillation.frame_store import FrameStore, open_sources
from kd_perception.distillation.recipe import AugmentRecipe, SourceRecipe


@pytest.fixture(scope='module')
def frames(stripes: Path, driving: ClassSet) -> FrameStore:
    sources = open_sources([SourceRecipe(str(stripes), classes='driving')], driving)
    return FrameStore(sources, (32, 48))


def batches(frames: FrameStore, **options: object) -> Batches:
    settings = {'crop': (24, 32), 'batch_size': 6, 'seed': 3, **options}
    return Batches(frames, AugmentRecipe(), **settings)  # type: ignore[arg-type]


def test_a_batch_has_the_promised_form(frames: FrameStore) -> None:
    batch = batches(frames).batch(0)
    assert batch.images.shape == (6, 24, 32, 3)
    assert batch.images.dtype == batch.labels.dtype == torch.uint8
    assert batch.labels.shape == (6, 24, 32)
    assert batch.theta.shape == (6, 2, 3)
    assert batch.soft is None
    assert batch.to(torch.device('cpu')).keys == batch.keys


def test_every_frame_is_seen_once_per_epoch_in_changing_order(frames: FrameStore) -> None:
    made = batches(frames)
    assert made.steps_per_epoch == 4
    epochs = [[k for step in range(4) for k in made.batch(4 * e + step).keys] for e in range(2)]
    for keys in epochs:
        assert sorted(keys) == sorted(map(str, frames.keys))
    assert epochs[0] != epochs[1]


def test_ranks_share_a_step_without_overlap(frames: FrameStore) -> None:
    alone = batches(frames, batch_size=12).batch(1).keys
    ranks = [batches(frames, rank=r, world=2).batch(1).keys for r in range(2)]
    assert ranks[0] + ranks[1] == alone


def test_every_step_of_every_process_has_a_seed_of_its_own(frames: FrameStore) -> None:
    ranks = [batches(frames, rank=rank, world=2) for rank in (0, 1)]
    seeds = [b.seed_at(step) for b in ranks for step in range(50)]
    assert len(set(seeds)) == 100
    assert batches(frames, rank=1, world=2).seed_at(7) == ranks[1].seed_at(7)


@pytest.mark.parametrize('threads', [1, 3])
def test_threads_and_resuming_change_nothing(frames: FrameStore, threads: int) -> None:
    made = batches(frames)
    stream = made.prefetch(5, threads)
    for step, batch in enumerate(islice(stream, 6), start=5):
        expected = made.batch(step)
        assert batch.keys == expected.keys
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)
        assert torch.equal(batch.theta, expected.theta)
    stream.close()


def test_seeds_give_other_views(frames: FrameStore) -> None:
    one, two = batches(frames).batch(0), batches(frames, seed=4).batch(0)
    assert not torch.equal(one.images, two.images)


def test_an_error_of_a_thread_arrives(frames: FrameStore) -> None:
    class Broken:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, position: int) -> None:
            raise OSError('disk went away')

    with pytest.raises(OSError, match='disk went away'):
        next(batches(Broken()).prefetch(0))  # type: ignore[arg-type]


def test_focus_shows_rare_classes_more_often(frames: FrameStore) -> None:
    weights = np.zeros(12)
    weights[5] = 1.0
    augment = AugmentRecipe(scale=(3.0, 3.0), focus=1.0)
    plain = Batches(frames, AugmentRecipe(scale=(3.0, 3.0)), crop=(24, 32), batch_size=24, seed=0)
    focused = Batches(frames, augment, crop=(24, 32), batch_size=24, seed=0,
                      focus_weights=weights)
    shares = [float((b.batch(0).labels == 5).float().mean()) for b in (plain, focused)]
    assert shares[1] > 1.5 * shares[0]
