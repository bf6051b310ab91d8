"""
Recording and checking of a robustness suite on disk.

Comes in: a plan and a directory. Goes out: one recording per part and ``suite.yaml`` with what
each is made of and the hash of its content. A part is in the manifest when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
import hashlib
from pathlib import Path
import re
from typing import Any

import yaml

from kd_perception import __version__, simulation
from kd_perception.cli.recording import record_simulation
from kd_perception.cli.suite_plan import Part, SuitePlan
from kd_perception.errors import BagError, ConfigError
from kd_perception.paths import atomic_file
from kd_perception.simulation.scenario import load_scenario
from kd_perception.simulation.worlds import load_world

MANIFEST = 'suite.yaml'
SCHEMA = 1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class SuiteState:
    """Which parts of a suite are whole, missing, or not what the manifest says."""

    whole: tuple[str, ...]
    missing: tuple[str, ...]
    changed: tuple[str, ...]


def record_suite(plan: SuitePlan, out: Path, *,
                 progress: Callable[[int, int, str], None] | None = None) -> int:
    """
    Record what is missing of ``plan`` in ``out``.

    :param progress: called with (frames done, frames in all, name of the part).
    :returns: how many parts were recorded now.
    :raises ConfigError: when ``out`` holds something else.
    """
    known = _claimed(plan, out)
    done = recorded = 0
    for part in plan.parts:
        if part.path in known and _is_whole(out, part.path, known[part.path]):
            done += part.frames
            _tell(progress, done, plan.frames, f'{part.path} is there')
            continue
        before = done

        def update(frame: int, total: int, note: str, part: Part = part,
                   before: int = before) -> None:
            _tell(progress, before + frame, plan.frames, part.path)

        path = out / part.group / part.name
        record_simulation(
            path, scenario=part.scenario, world=part.world, seed=part.seed, frames=part.frames,
            rate_hz=part.rate_hz, start_s=part.start_s, width=plan.width, height=plan.height,
            truth=plan.truth, overwrite=path.exists(), progress=update)
        known[part.path] = {**asdict(part), **_content(path)}
        _write(plan, out, known)
        done, recorded = done + part.frames, recorded + 1
    return recorded


def check_suite(out: Path, plan: SuitePlan | None = None, *,
                progress: Callable[[int, int, str], None] | None = None) -> SuiteState:
    """
    Compare the recordings of a suite with its manifest.

    :param plan: what should be there; without, what the manifest says.
    :raises BagError: when there is no suite in ``out``.
    """
    manifest = read_manifest(out)
    wanted = dict.fromkeys(manifest['parts'], {}) if plan is None \
        else {p.path: asdict(p) for p in plan.parts}
    if plan is not None and _look(manifest) != (plan.width, plan.height, list(plan.truth)):
        raise BagError(f'{out}: holds the suite {manifest["name"]!r} of another plan than '
                       f'{plan.name!r}; give its own with --size')
    whole, missing, changed = [], [], []
    for number, (path, asked) in enumerate(wanted.items()):
        facts = manifest['parts'].get(path)
        if facts is None or not (out / path).is_dir():
            missing.append(path)
        # Another seed or length is another recording, however whole.
        elif asked.items() <= facts.items() and _is_whole(out, path, facts):
            whole.append(path)
        else:
            changed.append(path)
        _tell(progress, number + 1, len(wanted), path)
    return SuiteState(tuple(whole), tuple(missing), tuple(changed))


def suite_bags(out: Path, names: Sequence[str] = ()) -> list[Path]:
    """
    Return the recordings of a suite, in order.

    :param names: groups (``test_weather``), roles (``train``) or parts; all without.
    :raises BagError: when there is no suite in ``out``, it is not whole, or has nothing of that
        name.
    """
    manifest = read_manifest(out)
    parts = manifest['parts']
    for name in names:
        if not any(_matches(path, facts, name) for path, facts in parts.items()):
            groups = sorted({str(f['group']) for f in parts.values()})
            raise BagError(f'{out}: no part {name!r}; there are {", ".join(groups)}')
    gone = [path for path, facts in parts.items() if not _is_as_long(out / path, facts)]
    if gone or not manifest['complete']:
        why = f'{gone[0]} is missing or cut off' if gone else 'its recording was interrupted'
        raise BagError(f'{out}: the suite {manifest["name"]!r} is not whole: {why}; go on with: '
                       f'kd_perception bag record --suite {out} --size NAME')
    return [out / path for path, facts in parts.items()
            if not names or any(_matches(path, facts, n) for n in names)]


def read_manifest(out: Path) -> dict[str, Any]:
    """
    Return the manifest of the suite in ``out``.

    :raises BagError: when there is none, or it is damaged.
    """
    path = out / MANIFEST
    if not path.is_file():
        raise BagError(f'{out}: holds no suite (no {MANIFEST}); make one with: '
                       f'kd_perception bag record --suite {out}')
    try:
        data = yaml.safe_load(path.read_text())
        wanted = {'schema': int, 'name': str, 'plan': str, 'complete': bool, 'parts': dict}
        if data['schema'] != SCHEMA or not _typed(data, wanted):
            raise ValueError('unknown schema')
        wanted = {'sha256': str, 'bytes': int, 'group': str, 'role': str}
        for part, facts in data['parts'].items():
            # Two plain names: what is read and replaced lies inside the suite.
            if not re.fullmatch(r'[a-z0-9_]+/[a-z0-9_]+', part) or not _typed(facts, wanted):
                raise ValueError('no part')
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise BagError(f'{path}: is damaged or of another version; remove {out} and record the '
                       'suite anew') from None
    return dict(data)


def of_this_version(plan: SuitePlan, out: Path) -> bool:
    """Tell whether this version of the simulator recorded, and so can go on with, a suite."""
    return bool(read_manifest(out)['plan'] == _fingerprint(plan))


def _look(manifest: dict[str, Any]) -> tuple[Any, ...]:
    return manifest.get('width'), manifest.get('height'), manifest.get('truth')


def _typed(data: dict[str, Any], wanted: Mapping[str, type]) -> bool:
    return all(isinstance(data[key], kind) for key, kind in wanted.items())


def _matches(path: str, facts: dict[str, Any], name: str) -> bool:
    return name in (path, facts['group'], facts['role'])


def _claimed(plan: SuitePlan, out: Path) -> dict[str, Any]:
    """Return the known parts of a suite to go on with, or claim a new directory."""
    if (out / MANIFEST).is_file():
        manifest = read_manifest(out)
        if manifest['plan'] != _fingerprint(plan):
            raise ConfigError(f'{out}: holds the suite {manifest["name"]!r} of another plan or '
                              'version; choose another directory')
        return dict(manifest['parts'])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f'{out}: exists and is no suite; choose another directory')
    _write(plan, out, {})
    return {}


def _write(plan: SuitePlan, out: Path, known: dict[str, Any]) -> None:
    parts = {p.path: known[p.path] for p in plan.parts if p.path in known}
    data = {'schema': SCHEMA, 'name': plan.name, 'plan': _fingerprint(plan),
            'version': __version__, 'width': plan.width, 'height': plan.height,
            'truth': list(plan.truth), 'complete': len(parts) == len(plan.parts),
            'parts': parts}
    with atomic_file(out / MANIFEST) as temporary:
        temporary.write_text(yaml.safe_dump(data, sort_keys=False, width=99))


def _fingerprint(plan: SuitePlan) -> str:
    """
    Return a hash of all that decides what is recorded.

    These are the scenarios' values and the simulator itself: another version draws other pictures.
    """
    scenarios = sorted({p.scenario for p in plan.parts})
    worlds = sorted({p.world for p in plan.parts})
    told = repr((plan, [load_scenario(s) for s in scenarios], [load_world(w) for w in worlds]))
    digest = hashlib.sha256(told.encode())
    folder = Path(simulation.__file__).parent
    for file in sorted(f for f in folder.rglob('*') if f.suffix in ('.py', '.glsl')):
        digest.update(file.relative_to(folder).as_posix().encode() + b'\0' + file.read_bytes())
    return digest.hexdigest()[:16]


def _is_whole(out: Path, path: str, facts: dict[str, Any]) -> bool:
    folder = out / path
    return _is_as_long(folder, facts) and bool(_content(folder)['sha256'] == facts['sha256'])


def _is_as_long(folder: Path, facts: dict[str, Any]) -> bool:
    return folder.is_dir() and bool(
        sum(f.stat().st_size for f in _files(folder)) == facts['bytes'])


def _content(folder: Path) -> dict[str, Any]:
    """Return hash and size of the files of a recording."""
    digest, size = hashlib.sha256(), 0
    for file in _files(folder):
        digest.update(file.name.encode() + b'\0')
        with file.open('rb') as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                size += len(block)
    return {'sha256': digest.hexdigest(), 'bytes': size}


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file())


def _tell(progress: Callable[[int, int, str], None] | None, done: int, total: int,
          note: str) -> None:
    if progress is not None:
        progress(done, total, note)
