"""
The report of a finished run: ``report.json`` and ``report.html`` in its directory.

In: a run directory, its recordings, its teacher where that is at hand; out: the two files, both or
none. What could not be looked at is said in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import json
import logging
import math
from pathlib import Path
import time
from typing import Any

from safetensors import safe_open
import torch
import yaml

from kd_perception.bundle import load_bundle, LOGITS, METRICS, ModelBundle, WEIGHTS
from kd_perception.classes import ClassMap, ClassSet, load_class_map
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import recipe_from_dict
from kd_perception.distillation.reports.attribution import attend, compare_attention, FRAMES
from kd_perception.distillation.reports.report_frames import open_frames, OtherData, ReportFrames
from kd_perception.distillation.reports.run_cost import run_cost
from kd_perception.distillation.reports.run_log import read_log, RunLog
from kd_perception.distillation.reports.run_page import render
from kd_perception.distillation.run_directory import REPORT_FILES
from kd_perception.engines.engine import Engine
from kd_perception.engines.loader import load_engine
from kd_perception.errors import first_line, KdPerceptionError, TrainingError
from kd_perception.evaluation.evaluate import drives_trained_on
from kd_perception.evaluation.host import host_info, package_versions
from kd_perception.evaluation.metrics.attribution import AttributionPair, summary
from kd_perception.evaluation.plain import plain
from kd_perception.evaluation.study import (
    BASELINE,
    close,
    Member,
    spread,
    STUDENT,
    Study,
    study,
    TEACHER,
)
from kd_perception.frames import Progress
from kd_perception.paths import atomic_file

log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
JSON_FILE, HTML_FILE = REPORT_FILES
MOST_FRAMES = 200
_STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


@dataclass(frozen=True)
class ReportRequest:
    """
    What a report is to be made of.

    :param teacher: whom to compare with; None: the one that the run learned from, where it lies
        where it lay.
    :param baseline: a run directory or a bundle to compare with.
    :param data: frames to look at; without paths, those that the run held out.
    :param frames: at most so many, evenly spread; 0: all.
    :param device: ``auto``: a GPU where the run had one and one is here.
    :param precision: fp32 by default, so that figures are the weights' and not a processor's.
    :param attribution: compare what student and teacher look at.
    """

    teacher: ModelBundle | None = None
    baseline: Path | None = None
    data: OtherData = field(default_factory=OtherData)
    frames: int = MOST_FRAMES
    engine: str = 'auto'
    device: str = 'auto'
    precision: str = 'fp32'
    threads: int = 0
    attribution: bool = True


@dataclass(frozen=True, eq=False)
class RunReport:
    """
    What a page is made of.

    :param kind: ``train`` or ``distill``.
    :param made: when, as text.
    :param cost: what the run took (``run_cost``).
    :param no_attribution: why there are no maps, where there is a teacher.
    """

    path: Path
    kind: str
    recipe: Recipe
    bundle: ModelBundle
    metrics: Mapping[str, Any]
    log: RunLog
    study: Study
    frames: str
    pairs: tuple[AttributionPair, ...]
    no_attribution: str
    cost: Mapping[str, Any]
    cautions: tuple[str, ...]
    host: Mapping[str, str]
    versions: Mapping[str, str]
    made: str


def write_run_report(path: Path | str, request: ReportRequest | None = None, *,
                     progress: Progress | None = None) -> Path:
    """
    Write the report of a finished run, over an older one.

    :returns: the path of the page.
    :raises KdPerceptionError: one line, when the run is not finished or its frames cannot be read.
    """
    folder = Path(path)
    report = examine(folder, request or ReportRequest(), progress=progress)
    weights = {m.role: parameters(m.bundle) for m in report.study.members}
    texts = {JSON_FILE: json.dumps(plain(report_dict(report, weights)), indent=1,
                                   allow_nan=False, ensure_ascii=False) + '\n',
             HTML_FILE: render(report, weights)}
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding='utf-8')
    return folder / HTML_FILE


def report_or_warn(path: Path | str, *, progress: Progress | None = None) -> Path | None:
    """
    Write the report of a run that has just ended; whatever goes wrong is one warning.

    :returns: the path of the page; None where it could not be made.
    """
    try:
        return write_run_report(path, progress=progress)
    except Exception as error:  # the run took hours, its report minutes
        log.warning('%s: no report (%s); the run is whole; try again with: kd_perception report '
                    '%s', path, first_line(error), path)
    return None


def examine(folder: Path, request: ReportRequest, *,
            progress: Progress | None = None) -> RunReport:
    """Look at everything that a report is made of."""
    kind, identity, recipe = _read_run(folder)
    bundle = load_bundle(folder / 'bundle')
    metrics = json.loads((folder / METRICS).read_text())
    events = read_log(folder)
    classes = bundle.spec.classes
    cautions: list[str] = _score_cautions(metrics)
    device = _device(request.device, str(events.finished.get('device', 'cpu')))
    members: list[Member] = []
    try:
        members.append(_member(STUDENT, bundle, classes, request, device))
        members += _teacher(request, events, identity, recipe, classes, device, cautions)
        if request.baseline is not None:
            members.append(_member(BASELINE, _bundle_of(request.baseline), classes, request,
                                   device))
        with open_frames(recipe, classes, events.finished, request.data,
                         request.frames) as frames:
            # Where nothing is distilled there is no student.
            found = study(frames, members, classes, progress=progress,
                          called={} if kind == 'distill' else {STUDENT: 'model'})
            cautions += _study_cautions(found, frames)
            pairs, absent = _attention(members, frames, device, progress) \
                if request.attribution else ((), '')
            about = frames.about
    finally:
        close(members)
    return RunReport(
        folder, kind, recipe, bundle, metrics, events, found, about, tuple(pairs), absent,
        run_cost(folder, recipe, bundle, metrics, events), tuple(cautions),
        events.finished.get('host') or host_info(),
        events.finished.get('versions') or package_versions(), time.strftime('%Y-%m-%d %H:%M'))


def report_dict(report: RunReport, weights: Mapping[str, int | None]) -> dict[str, Any]:
    """Return the content of ``report.json``; ``docs/distillation.md`` describes it."""
    found, names = report.study, report.bundle.spec.classes.names
    return {
        'schema_version': SCHEMA_VERSION, 'kind': report.kind, 'name': report.recipe.name,
        'made': report.made, 'cautions': report.cautions, 'classes': names,
        'frames': {'of': report.frames, 'measured': len(found.frames),
                   'labelled': found.labelled, 'bad': found.bad, 'by_frame': found.frames},
        'members': {m.role: _member_dict(m, found, weights) for m in found.members},
        'differences': {role: vars(pair) | {'difference': vars(pair.difference)}
                        for role, pair in found.differences.items()},
        'agreement': None if found.agreement is None else found.agreement.to_dict(names),
        'attribution': summary(report.pairs, names) if report.pairs else None,
        'curves': {k: c.to_dict() for k, c in {**report.log.scalars, **report.log.terms}.items()},
        'validation': {k: c.to_dict() for k, c in report.log.validation.items()},
        'cost': dict(report.cost), 'host': dict(report.host), 'versions': dict(report.versions)}


def parameters(bundle: ModelBundle) -> int | None:
    """
    Return the number of weights; None for a graph without a network.

    Counted in the file, without the statistics of batch normalisation: building a network may
    import seconds of libraries.
    """
    if not bundle.has(WEIGHTS):
        return None
    with safe_open(bundle.file(WEIGHTS), 'numpy') as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys()  # noqa: SIM118
                   if name.rpartition('.')[2] not in _STATISTICS)


def _read_run(folder: Path) -> tuple[str, dict[str, Any], Recipe]:
    """Return kind, identity and recipe of a finished run."""
    stored = folder / 'recipe.yaml'
    if not stored.is_file():
        raise TrainingError(f'{folder}: is no run directory (recipe.yaml is missing); give the '
                            '--out of a train or distill; of a search, one of its trials/')
    try:
        data = yaml.safe_load(stored.read_text())
        kind, identity = str(data['kind']), dict(data['identity'])
        recipe = recipe_from_dict(data['recipe'])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise TrainingError(f'{stored}: not readable ({first_line(error)})') from None
    if not (folder / 'bundle').is_dir() or not (folder / METRICS).is_file():
        raise TrainingError(f'{folder}: the run is not finished; give its command again, which '
                            'resumes it')
    return kind, identity, recipe


def _device(wish: str, trained_on: str) -> str:
    if wish != 'auto':
        return wish
    return 'cuda' if trained_on.startswith('cuda') and torch.cuda.is_available() else 'cpu'


def _member(role: str, bundle: ModelBundle, classes: ClassSet, request: ReportRequest,
            device: str, class_map_name: str = '') -> Member:
    """Load a model; its classes are the run's or can be mapped to them."""
    class_map: ClassMap | None = None
    if bundle.spec.classes.names != classes.names:
        class_map = load_class_map(bundle.spec.classes, classes, class_map_name)
    engine = request.engine
    if engine == 'auto' and device.startswith('cuda'):
        engine = 'torch' if bundle.spec.network.builder else 'onnxruntime'
    # Behind a class map the lesson adds up the probabilities of merged classes.
    graph = 'logits' if class_map is not None and bundle.has(LOGITS) else 'deploy'
    loaded: Engine = load_engine(bundle, engine, device=device, precision=request.precision,
                                 threads=request.threads, graph=graph)
    return Member(role, bundle.spec.name, bundle, loaded, class_map)


def _teacher(request: ReportRequest, events: RunLog, identity: Mapping[str, Any], recipe: Recipe,
             classes: ClassSet, device: str, cautions: list[str]) -> list[Member]:
    """Return the teacher, or none with a caution that says why."""
    told = events.finished.get('teachers', ())
    known = [t['hash'] for t in told]
    if not events.finished and 'teacher' in identity:
        known = [identity['teacher']]
    class_map = recipe.distillation.class_map
    if request.teacher is not None:
        if known and request.teacher.hash not in known:
            cautions.append(f'{request.teacher.spec.name} is not the teacher that the run '
                            'learned from.')
        return [_member(TEACHER, request.teacher, classes, request, device, class_map)]
    if not told:
        if known and not events.finished:
            cautions.append('The run does not say where its teacher lies; name it with --teacher '
                            'to compare with it.')
        return []
    if len(told) > 1:
        cautions.append(f'The run learned from {len(told)} teachers; the first is compared with.')
    path = told[0]['path']
    try:
        bundle = load_bundle(path)
        if bundle.hash != told[0]['hash']:
            raise TrainingError(f'{path}: is another bundle now')
        return [_member(TEACHER, bundle, classes, request, device, class_map)]
    except KdPerceptionError as error:
        cautions.append(f'Nothing is compared with the teacher: {error}')
        return []


def _bundle_of(path: Path) -> ModelBundle:
    """Return the bundle of a run directory, or of a path that is one."""
    return load_bundle(path / 'bundle' if (path / 'bundle').is_dir() else path)


def _attention(members: Sequence[Member], frames: ReportFrames, device: str,
               progress: Progress | None) -> tuple[Sequence[AttributionPair], str]:
    teacher = next((m for m in members if m.role == TEACHER), None)
    if teacher is None:
        return (), ''
    try:
        networks = [attend(m.bundle, m.class_map, torch.device(device))
                    for m in (members[0], teacher)]
        pairs = compare_attention(networks[0], networks[1], frames, spread(len(frames), FRAMES),
                                  progress=progress)
        return pairs, '' if pairs else 'No frame could be looked at.'
    except Exception as error:  # a network of somebody else may fail in any way
        return (), f'Nothing is known of what they look at: {first_line(error)}'


def _score_cautions(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the run itself says of its held-out frames."""
    out = []
    held = metrics.get('held_out', {})
    if held.get('shared_drives') or held.get('shared_pictures'):
        named = ', '.join(held.get('shared_drives', {})) or 'the same pictures'
        out.append(f'Validation and training data share drives ({named}): the score flatters.')
    elif str(held.get('by', '')).startswith('tail'):
        out.append('The held-out frames are the last part of recordings that were learned from: '
                   'the score flatters.')
    if metrics.get('validation_against') == 'teacher':
        out.append('The curve of validation is agreement with the teacher, not accuracy.')
    return out


def _study_cautions(found: Study, frames: ReportFrames) -> list[str]:
    out = []
    if not found.labelled:
        out.append('The frames have no ground truth: which network is right where they differ, '
                   'nobody knows.')
    for member in found.members[1:]:
        known = dict.fromkeys(name for entry in frames.sources
                              for name in drives_trained_on(member.bundle, entry.source))
        if known:
            out.append(f'The {member.role} was trained on drives that these frames are of '
                       f'({", ".join(known)}): its score flatters.')
        if member.class_map is not None and not member.adds_up:
            out.append(f'The bundle of the {member.role} has no graph of logits: its decisions '
                       'are mapped to the classes of the student, where the lesson added up '
                       'probabilities.')
    if found.bad:
        out.append(f'{found.bad} frames could not be decoded and are left out.')
    return out


def _member_dict(member: Member, found: Study,
                 weights: Mapping[str, int | None]) -> dict[str, Any]:
    spec, role = member.bundle.spec, member.role
    accuracy = found.accuracies.get(role)
    labelled = accuracy is not None
    return {
        'label': member.label, 'bundle_hash': member.bundle.hash,
        'network': spec.network.builder, 'parameters': weights[role],
        'input': [spec.input.height, spec.input.width], 'engine': member.engine.name,
        'device': member.engine.device, 'precision': member.engine.precision,
        'accuracy': None if accuracy is None else
        {**vars(accuracy), 'miou': vars(accuracy.miou)},
        'confusion': found.matrices[role].counts.tolist() if labelled else None,
        'calibration': found.calibrations[role].to_dict() if labelled else None}

