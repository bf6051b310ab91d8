"""
How many pictures of other conditions lie beyond the limit of "unlike the training data".

    python benchmarks/unfamiliar_pictures.py                    # some 3 minutes on two idle cores
    python benchmarks/unfamiliar_pictures.py --camvid camvid    # also real streets

Statistics of the street in clear weather, then the scores of other drives: in clear weather (none
should be flagged) and in other conditions and worlds. With ``--camvid`` the same with statistics
of its training part. The figure is the smaller share of ``dense_fog`` and ``night`` that is
flagged; single pictures, without the smoothing in time that the node adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import result

from kd_perception.simulation.source import SimulatorSource
from kd_perception.tasks.familiarity import picture_features, PictureStatistics, summarize

HELD = 'clear'
CONDITIONS = (('dense_fog', ''), ('night', ''), ('night_rain', ''), ('glare', ''), ('sunset', ''),
              ('rain', ''), ('overcast', ''), ('far_small', ''), ('crowd', ''),
              ('clear', 'downtown'), ('clear', 'highway'), ('clear', 'suburb'))


def drive(scenario: str, seed: int, frames: int, world: str = '') -> Iterator[np.ndarray]:
    """Yield the features of pictures a second apart."""
    with closing(SimulatorSource(scenario, seed=seed, frames=frames, rate_hz=1.0,
                                 start_s=3.0 + seed % 5, world=world)) as source:
        for frame in source:
            yield picture_features(frame.image)


def camvid(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Return the features of a part of CamVid, and the drive of each picture."""
    files = sorted(folder.iterdir())
    return (np.stack([picture_features(np.asarray(cv2.imread(str(f))), 'bgr') for f in files]),
            [f.name.partition('_')[0] for f in files])


def auroc(usual: np.ndarray, other: np.ndarray) -> float:
    """Return the chance that a picture of ``other`` scores above one of ``usual``."""
    above = (other[:, None] > usual).mean() + 0.5 * (other[:, None] == usual).mean()
    return float(above)


def judged(statistics: PictureStatistics, held: np.ndarray,
           others: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return, for the held-out pictures and each other kind, share flagged and AUROC."""
    usual = statistics.distance(held)
    scores = {'held out': usual, **{n: statistics.distance(o) for n, o in others.items()}}
    return {name: {'n': len(d), 'flagged': round(float((d > statistics.limit).mean()), 4),
                   'auroc': round(auroc(usual, d), 3),
                   'median_score': round(float(np.median(d)) / statistics.limit, 2)}
            for name, d in scores.items()}


def main() -> None:
    parser = result.parser(__doc__ or '')
    parser.add_argument('--drives', type=int, default=12, help='in clear weather, to learn from')
    parser.add_argument('--held', type=int, default=4, help='drives of each other kind')
    parser.add_argument('--frames', type=int, default=20, help='of each drive')
    parser.add_argument('--camvid', type=Path, help='folder with train and test')
    args = parser.parse_args()
    learned = np.stack([f for seed in range(args.drives)
                        for f in drive(HELD, 100 + seed, args.frames)])
    held = np.stack([f for seed in range(args.held) for f in drive(HELD, 400 + seed, args.frames)])
    others = {f'{scenario} {world}'.strip(): np.stack(
        [f for seed in range(args.held) for f in drive(scenario, 300 + seed, args.frames, world)])
        for scenario, world in CONDITIONS}
    details = {}
    if args.camvid is not None:
        (train, drives), (test, _) = (camvid(args.camvid / part) for part in ('train', 'test'))
        numbers = [sorted(set(drives)).index(d) for d in drives]
        details['camvid'] = judged(summarize(train, numbers), test, {'clear': held, **others})
        others['camvid test'] = test
    statistics = summarize(learned, np.repeat(range(args.drives), args.frames).tolist())
    found = details['street'] = judged(statistics, held, others)
    result.state(
        name='unfamiliar_pictures', unit='of pictures flagged',
        value=min(found[n]['flagged'] for n in ('dense_fog', 'night')),
        workload={'width': 640, 'height': 360, 'learned': len(learned), 'drives': args.drives,
                  **details},
        spread={'held_out_flagged': found['held out']['flagged']}, json_file=args.json)


if __name__ == '__main__':
    main()
