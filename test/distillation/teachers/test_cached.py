from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from kd_perception.distillation.augmentation import View
from kd_perception.distillation.losses.kl import kl_divergence
from kd_perception.distillation.teachers.cached import settle, warp_ids
from kd_perception.distillation.teachers.teacher import view_grid
from kd_perception.tasks.soft_labels import SoftLabelCodec


def test_settled_logits_decide_as_the_teacher_and_are_nearer_to_it() -> None:
    torch.manual_seed(0)
    teacher = functional.interpolate(6 * torch.randn(1, 5, 8, 10), size=(64, 80),
                                     mode='bicubic')
    codec = SoftLabelCodec('packed', stride=4)
    record = codec.encode(teacher[0].numpy())
    blurred = functional.interpolate(torch.from_numpy(codec.decode(record))[None], size=(64, 80),
                                     mode='bilinear')
    winners = torch.from_numpy(codec.winner(record))[None]
    settled = settle(blurred, winners)
    assert not torch.equal(blurred.argmax(1), teacher.argmax(1))
    assert torch.equal(settled.argmax(1), teacher.argmax(1))
    assert kl_divergence(settled, teacher, 1.0) < kl_divergence(blurred, teacher, 1.0)
    # Where the blurred logits decide as the teacher does, nothing changes.
    right = blurred.argmax(1) == teacher.argmax(1)
    assert torch.equal(settled.permute(0, 2, 3, 1)[right], blurred.permute(0, 2, 3, 1)[right])
    unknown = torch.full_like(winners, 255)
    assert torch.equal(settle(blurred, unknown), blurred)


def test_ids_lie_in_the_view_where_the_picture_does() -> None:
    ids = torch.arange(24, dtype=torch.uint8).reshape(1, 4, 6)
    theta = torch.from_numpy(View(1, 2, 2, 4, flip=True).theta(4, 6))[None]
    got = warp_ids(ids, view_grid(theta, (2, 4)))
    np.testing.assert_array_equal(got[0], ids[0, 1:3, 2:6].flip(1))
