"""
How far warped soft labels are from what the teacher says of the very view.

    python benchmarks/view_gap.py --teacher runs/teacher/bundle --data camvid/train \
        --recipe student_camvid

A teacher labels whole frames into the default codec; the labels are warped into views that the
recipe's augmentation draws (``distillation.view: warp``). Then the teacher looks at these views
itself: in the light of the frame (geometry alone), and in that of the view (geometry and light).
Beside them what the codec alone costs: on whole frames, and on the labels of the very views
(``distillation.view: views``). The figure is the agreement with geometry and light.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import result
import torch

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle
from kd_perception.distillation.augmentation import View
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.losses.cross_entropy import upsample
from kd_perception.distillation.losses.kl import kl_divergence
from kd_perception.distillation.recipe_file import load_recipe
from kd_perception.distillation.teachers.cached import CachedTeacher, ViewTeacher
from kd_perception.distillation.teachers.network import TeacherNetwork
from kd_perception.distillation.teachers.teacher import Lesson
from kd_perception.distillation.views import ViewPlan
from kd_perception.imaging import resize_image
from kd_perception.tasks.soft_labels import SoftLabelCodec

ROWS = ('codec_on_frames', 'codec_on_views', 'geometry', 'geometry_and_light')
TEMPERATURES = (1.0, 4.0)


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--teacher', type=Path, required=True, help='bundle of a trained teacher')
    parser.add_argument('--data', type=Path, required=True, help='frames: a folder or a bag')
    parser.add_argument('--recipe', default='student_camvid', help='whose augmentation is used')
    parser.add_argument('--count', type=int, default=40, help='frames, evenly spaced')
    parser.add_argument('--views', type=int, default=4, help='views of every frame')
    parser.add_argument('--stride', type=int, default=4, help='of the soft labels')
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    recipe, bundle = load_recipe(args.recipe), load_bundle(args.teacher)
    plan, codec = ViewPlan.of(recipe, args.views), SoftLabelCodec(stride=args.stride)
    network = TeacherNetwork(bundle, device=args.device, frame=plan.size, crop=plan.crop)
    frames: dict[str, list[np.ndarray]] = {row: [] for row in ROWS}
    with closing(open_source(args.data, count=args.count)) as source:
        for index in range(len(source)):
            frame = source[index]
            image = resize_image(frame.image, *plan.size)
            views = [plan.draw(image, frame.key, k) for k in range(args.views)]
            for row, figures in measured(network, codec, image, views).items():
                frames[row].append(np.mean(figures, 0))
            print(f'{index + 1}/{len(source)}', end='\r', flush=True)
    details = {}
    for row in ROWS:
        mean, std = np.mean(frames[row], 0), np.std(frames[row], 0)
        details[row] = {name: [round(float(m), 5), round(float(s), 5)] for name, m, s in zip(
            ('agreement', *(f'kl_{t:g}' for t in TEMPERATURES)), mean, std, strict=True)}
        told = ', '.join(f'{k} {m:.4f} ± {s:.4f}' for k, (m, s) in details[row].items())
        print(f'{row:20} {told}')
    agreement, spread = details['geometry_and_light']['agreement']
    result.state(
        name='view_gap', value=agreement, unit='share of pixels with the same likeliest class',
        workload={'teacher': bundle.spec.name, 'bundle': bundle.hash[:12], 'data': args.data.name,
                  'recipe': args.recipe, 'n': args.count, 'views': args.views,
                  'crop': list(plan.crop), 'input': list(plan.size), 'codec': codec.to_dict(),
                  'engine': network.name, 'precision': network.precision, 'rows': details},
        spread={'std_over_frames': spread}, json_file=args.json, details=details)


def measured(network: TeacherNetwork, codec: SoftLabelCodec, image: np.ndarray,
             views: list[tuple[View, np.ndarray, np.ndarray]]) -> dict[str, list[list[float]]]:
    """Return agreement and divergences of every view of a frame, by row of the table."""
    whole = torch.from_numpy(image)[None].to(network.device)
    places, lights, calms = zip(*views, strict=True)
    lit, calm = (torch.from_numpy(np.stack(pictures)).to(network.device)
                 for pictures in (lights, calms))
    theta = torch.from_numpy(np.stack([p.theta(*image.shape[:2]) for p in places]))
    crop = (lit.shape[1], lit.shape[2])
    said = {name: network.look(x)[0].cpu() for name, x in
            (('whole', whole), ('lit', lit), ('calm', calm))}
    soft, winners = stored(codec, said['whole'], (image.shape[0], image.shape[1]))
    frame = View(0, 0, *image.shape[:2]).theta(*image.shape[:2])
    teacher = CachedTeacher((image.shape[0], image.shape[1]))
    count = len(views)
    many = None if winners is None else winners.expand(count, -1, -1)
    warped = teacher.teach(batch(lit, theta, soft.expand(count, -1, -1, -1), many), crop)
    kept = ViewTeacher().teach(batch(lit, theta, *stored(codec, said['lit'], crop)), crop)
    back = teacher.teach(batch(whole, torch.from_numpy(frame)[None], soft, winners),
                         (image.shape[0], image.shape[1]))
    return {'codec_on_frames': compared(back, said['whole']),
            'codec_on_views': compared(kept, said['lit']),
            'geometry': compared(warped, said['calm']),
            'geometry_and_light': compared(warped, said['lit'])}


def stored(codec: SoftLabelCodec, logits: torch.Tensor,
           size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return logits and winners as a cache gives them back."""
    records = [codec.encode(x.numpy(), size) for x in logits]
    sure = [w for r in records if (w := codec.winner(r)) is not None]
    return (torch.from_numpy(np.stack([codec.decode(r) for r in records])),
            torch.from_numpy(np.stack(sure)) if len(sure) == len(records) else None)


def batch(images: torch.Tensor, theta: torch.Tensor, soft: torch.Tensor,
          winners: torch.Tensor | None) -> Batch:
    """Return a batch without labels."""
    return Batch(('',) * len(images), images.cpu(), images[..., 0].cpu(), theta, soft, winners)


def compared(lesson: Lesson, exact: torch.Tensor) -> list[list[float]]:
    """Return agreement and divergences from ``exact`` by view, over valid pixels at full size."""
    exact = upsample(exact, *lesson.logits.shape[-2:])
    out = []
    for logits, valid, truth in zip(lesson.logits, lesson.valid, exact, strict=True):
        same = (logits.argmax(0) == truth.argmax(0))[valid]
        weights = valid.float()[None]
        out.append([float(same.float().mean()), *(
            float(kl_divergence(logits[None], truth[None], t, weights=weights)) / t ** 2
            for t in TEMPERATURES)])
    return out


if __name__ == '__main__':
    main()
