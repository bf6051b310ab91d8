"""
What in the picture two networks look at when they see a class.

Per frame and class c, with R the pixels that the teacher calls c:

    S = Σ_{i ∈ R} ( log Σ_{k → c} exp z_ik − mean_k z_ik ),   map = Σ_channels | ∂S / ∂x |

the input gradient of Simonyan et al., "Deep Inside Convolutional Networks" (2014), for the pixels
of a segment as Vinogradova et al., "Towards Interpretable Semantic Segmentation via
Gradient-weighted Class Activation Mapping" (AAAI 2020) have it. Logits count against their mean
over the classes, since a softmax does not see a number that is added to all of them. x is the
normalised picture. Maps are averaged over cells of a coarse grid and compared by ranks within R
(``evaluation/metrics/attribution.py`` says why).

Even networks that learned nothing agree in some measure: the same student with weights drawn anew
(Adebayo et al., "Sanity Checks for Saliency Maps", 2018) says how much that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
import copy
from dataclasses import dataclass
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kd_perception.bundle import InputSpec, ModelBundle
from kd_perception.classes import ClassMap, UNLABELLED
from kd_perception.errors import ImageError
from kd_perception.evaluation.metrics.attribution import AttributionPair, FEWEST_CELLS
from kd_perception.evaluation.reports.pictures import fit_image
from kd_perception.evaluation.study import StudyFrames
from kd_perception.frames import Progress
from kd_perception.networks.deploy import load_module, Normalize
from kd_perception.tasks.placement import network_input, place

FRAMES = 6
CLASSES_PER_FRAME = 3
# One network with random weights is much like the teacher by chance and another is not.
RANDOM_SEEDS = (20180, 20181, 20182)
# Rows of a map; columns follow from the frame's aspect.
_ROWS = 24
_WIDTH = 360


@dataclass(frozen=True)
class Attended:
    """
    A network whose gradients are asked for.

    :param table: uint8 ``[K]``, the common class of each of its own; 255: none.
    """

    module: nn.Module
    spec: InputSpec
    table: np.ndarray
    device: torch.device


def attend(bundle: ModelBundle, class_map: ClassMap | None, device: torch.device) -> Attended:
    """
    Load the network of a bundle.

    :raises BundleError: when the bundle is a graph without a network.
    """
    count = len(bundle.spec.classes)
    ids = np.arange(count, dtype=np.uint8)
    module = load_module(bundle).to(device).requires_grad_(False)
    return Attended(module, bundle.spec.input, ids if class_map is None else class_map(ids),
                    device)


def with_random_weights(network: Attended, seed: int) -> Attended:
    """Return the same network with all weights drawn anew."""
    module = copy.deepcopy(network.module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in module.modules():
            reset = getattr(layer, 'reset_parameters', None)
            if callable(reset):
                reset()
    return Attended(module, network.spec, network.table, network.device)


def compare_attention(student: Attended, teacher: Attended, frames: StudyFrames,
                      positions: Sequence[int], *, limit_s: float = 60.0,
                      progress: Progress | None = None) -> list[AttributionPair]:
    """
    Return the maps of both networks, and of a random one, on some frames.

    The teacher decides which segments are looked at: in each frame up to ``CLASSES_PER_FRAME``
    classes of enough cells, first those that were had least often.

    :param limit_s: no further frame is begun after so many seconds.
    """
    drawn = [with_random_weights(student, seed) for seed in RANDOM_SEEDS]
    had: Counter[int] = Counter()
    pairs: list[AttributionPair] = []
    begun = time.monotonic()
    for done, position in enumerate(positions):
        if time.monotonic() - begun > limit_s:
            break
        try:
            frame = frames[position]
        except ImageError:
            continue
        height, width = frame.image.shape[:2]
        grid = (_ROWS, max(1, round(_ROWS * width / height)))
        segments, cells = _choose(decision(teacher, frame.image), grid, had)
        own, taught, *blind = (saliency(n, frame.image, segments, grid)
                               for n in (student, teacher, *drawn))
        picture = fit_image(frame.image, _WIDTH)
        pairs += [AttributionPair(frame.name, c, cells[i], own[i], taught[i],
                                  tuple(b[i] for b in blind), picture)
                  for i, (c, _) in enumerate(segments)]
        if progress is not None:
            progress(done + 1, len(positions), 'report: comparing attention')
    return pairs


def decision(network: Attended, image: np.ndarray) -> np.ndarray:
    """
    Return what a network says of a frame, on the grid of its logits and in common classes.

    :param image: uint8 ``[H, W, 3]``, RGB.
    """
    where = place((image.shape[0], image.shape[1]), network.spec)
    with torch.no_grad():
        logits = network.module(_normalised(network, image)).float()[0].cpu().numpy()
    ids = where.crop_grid(logits).argmax(0)
    return np.asarray(network.table[ids])


def saliency(network: Attended, image: np.ndarray, segments: Sequence[tuple[int, np.ndarray]],
             grid: tuple[int, int]) -> np.ndarray:
    """
    Return how much the picture matters to segments, float32 ``[n, *grid]``.

    :param image: uint8 ``[H, W, 3]``, RGB.
    :param segments: common class and bool ``[h, w]`` over the frame, of any grid.
    """
    where = place((image.shape[0], image.shape[1]), network.spec)
    rows = slice(where.top, where.top + where.height)
    columns = slice(where.left, where.left + where.width)
    pixels = _normalised(network, image).requires_grad_()
    logits = network.module(pixels).float()
    out = np.zeros((len(segments), *grid), np.float32)
    for i, (class_id, segment) in enumerate(segments):
        own = torch.from_numpy(np.flatnonzero(network.table == class_id)).to(network.device)
        if len(own) == 0:
            continue
        weight = torch.zeros(1, 1, *where.input_size)
        weight[..., rows, columns] = functional.interpolate(
            torch.from_numpy(segment)[None, None].float(), size=(where.height, where.width))
        weight = functional.adaptive_avg_pool2d(weight, logits.shape[-2:]).to(network.device)
        score = logits[:, own].logsumexp(1) - logits.mean(1)
        gradient, = torch.autograd.grad((score * weight[:, 0]).sum(), pixels, retain_graph=True)
        strength = gradient.abs().sum(1, keepdim=True)[..., rows, columns]
        out[i] = functional.adaptive_avg_pool2d(strength, grid)[0, 0].cpu().numpy()
    return out


def _normalised(network: Attended, image: np.ndarray) -> torch.Tensor:
    picture = torch.from_numpy(network_input(image, network.spec))[None].to(network.device)
    normalise: Callable[[torch.Tensor], torch.Tensor] = Normalize(network.spec).to(network.device)
    return normalise(picture)


def _choose(decided: np.ndarray, grid: tuple[int, int], had: Counter[int],
            ) -> tuple[list[tuple[int, np.ndarray]], list[np.ndarray]]:
    """
    Return segments to look at and their cells (bool ``[*grid]``), and count their classes.

    :param decided: uint8 ``[h, w]``, what the teacher says.
    """
    cells = {}
    for class_id in np.unique(decided[decided != UNLABELLED]).tolist():
        covered = torch.from_numpy(decided == class_id)[None, None].float()
        inside = (functional.adaptive_avg_pool2d(covered, grid)[0, 0] > 0.5).numpy()
        if np.count_nonzero(inside) >= FEWEST_CELLS:
            cells[class_id] = inside
    chosen = sorted(cells, key=lambda c: (had[c], -np.count_nonzero(cells[c])))
    chosen = chosen[:CLASSES_PER_FRAME]
    had.update(chosen)
    return [(c, decided == c) for c in chosen], [cells[c] for c in chosen]
