"""
Mutated bundles: each loads and serves, or is refused in one line.

``KD_PERCEPTION_FUZZ_BUNDLES`` says how many; the default is a short run for every day. Most are
sealed again, as somebody would do who knows how, so that they get past the hashes. They are loaded
in a process of its own: a runtime may end it, and memory is counted from its start.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
from pathlib import Path
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from kd_perception.bundle import (
    DEPLOY,
    find_bundle,
    load_bundle,
    LOGITS,
    MANIFEST,
    MODEL_CARD,
    WEIGHTS,
)
from kd_perception.errors import KdPerceptionError
from kd_perception.imaging import encode_jpeg
from kd_perception.nodes.perception.serving import ServingModel, ServingSettings

BUNDLES = int(os.environ.get('KD_PERCEPTION_FUZZ_BUNDLES', '60'))
ADDRESS_SPACE = 8 * 2**30
GROWTH_BYTES = 600 * 2**20
PATIENCE_S = 60  # a load that takes longer hangs, on a busy machine too
SEAL = b'hash: '

DEEP = 20_000
TEXTS = {
    'deep lists': f'statistics: {"[" * DEEP}{"]" * DEEP}\n',
    'deep mappings': ''.join(f'{" " * n}a:\n' for n in range(2000)),
    'aliases that double': 'statistics:\n  a0: &a0 [x, x]\n' + ''.join(
        f'  a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 40)) + 'task: *a39\n',
    'an alias of itself': 'statistics: &a [*a]\ntask: *a\n',
    'python': 'task: !!python/object/apply:os.system ["true"]\n',
    'binary': 'network: {builder: compact, arguments: {width: !!binary aGFsbG8=}}\n',
    'a set': 'network: {builder: compact, arguments: !!set {a, b}}\n',
    'a date': 'network: {builder: compact, arguments: {width: 2001-01-01}}\n',
    'a number of many digits': f'schema_version: {"9" * 9000}\n',
    'a hexadecimal number': f'schema_version: 0x{"f" * 9000}\n',
    'a long name': f'task: {"x" * 100_000}\n',
    'many keys': ''.join(f'k{n}: {n}\n' for n in range(3000)),
    'a control character': 'task: "\0"\n',
    'two documents': '---\na: 1\n---\nb: 2\n',
    'a tab': '\ta: 1\n',
    'nothing': '',
    'a list as key': '? [1, 2]\n: 3\n',
    'an unknown anchor': 'task: *nobody\n',
}
VALUES = (
    None, True, 0, 1, -1, 2**31, 2**63, 10**30, 1.5, -0.0, float('nan'), float('inf'), 1e300, '',
    'x', 'x' * 5000, '\n', '../..', '/', [], [1], [[]], {}, {'a': 1}, {1: 2}, [None], ['x'] * 300,
    '~nobody', '9' * 50, [1e308] * 3, [0, 0, 0], [float('nan')] * 3)


def seal(folder, text):
    body = text if isinstance(text, bytes) else text.encode()
    (folder / MANIFEST).write_bytes(
        body + SEAL + f'{hashlib.sha256(body).hexdigest()}\n'.encode())


def manifest(folder):
    return yaml.safe_load((folder / MANIFEST).read_bytes().rpartition(SEAL)[0])


def dump(data):
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def seal_files(folder):
    """Write the hash and length of every file anew."""
    data = manifest(folder)
    for name in data['files']:
        content = (folder / name).read_bytes()
        data['files'][name] = {'sha256': hashlib.sha256(content).hexdigest(),
                               'bytes': len(content)}
    seal(folder, dump(data))


def spoil(rng, content):
    """Return bytes that differ from ``content``."""
    while True:
        data = bytearray(content)
        what = rng.integers(4)
        if what == 0:
            for place in rng.integers(0, len(data), int(rng.integers(1, 20))):
                data[place] ^= 1 << int(rng.integers(8))
        elif what == 1:
            del data[int(rng.integers(0, len(data))):]
        elif what == 2:
            start, size = int(rng.integers(len(data))), int(rng.integers(1, 60))
            data[start:start + size] = rng.bytes(size)
        else:
            # Where the names, shapes and lengths are.
            for place in rng.integers(0, min(400, len(data)), int(rng.integers(1, 4))):
                data[place] = int(rng.choice((0, 1, 127, 128, 255)))
        if data != content:
            return bytes(data)


def places(value, path=()):
    """Return the paths of all values in a manifest."""
    out = [path] if path else []
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    else:
        return out
    return out + [p for key, inner in entries for p in places(inner, (*path, key))]


def spoil_manifest(rng, folder):
    """Change, remove or rename one to three values."""
    data = manifest(folder)
    done = []
    for _ in range(int(rng.integers(1, 4))):
        known = places(data)
        # Each section as often as the others: classes and files have most of the values.
        first = sorted({p[0] for p in known})
        section = first[rng.integers(len(first))]
        known = [p for p in known if p[0] == section]
        path = known[rng.integers(len(known))]
        holder = data
        for key in path[:-1]:
            holder = holder[key]
        what = rng.integers(5)
        value = VALUES[rng.integers(len(VALUES))]
        if what == 0:
            del holder[path[-1]]
        elif what == 1 and isinstance(holder, dict):
            holder[f'{path[-1]}x'] = holder.pop(path[-1])
        else:
            holder[path[-1]] = value
        done.append(f'{path}: {what} {str(value)[:20]}')
    seal(folder, dump(data))
    return '; '.join(done)


def spoil_folder(rng, folder):
    """Put something else where a file should be."""
    names = [*manifest(folder)['files'], MANIFEST]
    path = folder / names[rng.integers(len(names))]
    what = ('missing', 'folder', 'endless', 'loop', 'memory', 'pipe', 'empty', 'gone',
            'terminal')[rng.integers(9)]
    path.unlink()
    if what == 'folder':
        path.mkdir()
    elif what == 'pipe':
        os.mkfifo(path)
    elif what == 'empty':
        path.touch()
    elif what != 'missing':
        path.symlink_to({'endless': '/dev/zero', 'loop': path.name, 'memory': '/proc/self/mem',
                         'gone': '/nowhere', 'terminal': '/dev/stdin'}[what])
    return f'{path.name} {what}'


def mutate(rng, folder):
    """
    Spoil the bundle in one way; return in which, and whether it must be refused.

    Of a file that is not sealed its name stands for that: an engine refuses those that it reads.
    """
    what = rng.integers(8)
    names = (DEPLOY, WEIGHTS, LOGITS, MODEL_CARD, MANIFEST)
    if what == 0:
        path = folder / names[rng.integers(len(names))]
        path.write_bytes(spoil(rng, path.read_bytes()))
        return f'{path.name} not sealed', path.name
    if what in (1, 2):
        path = folder / names[rng.integers(2)]
        path.write_bytes(spoil(rng, path.read_bytes()))
        seal_files(folder)
        return f'{path.name} sealed', False
    if what == 3:
        kind = list(TEXTS)[rng.integers(len(TEXTS))]
        whole = {} if rng.integers(2) else manifest(folder)
        for line in TEXTS[kind].splitlines()[:1]:
            whole.pop(line.partition(':')[0], None)
        seal(folder, TEXTS[kind] + (dump(whole) if whole else ''))
        return kind, not whole
    if what == 4:
        return spoil_folder(rng, folder), True
    if what == 5:
        body = (folder / MANIFEST).read_bytes().rpartition(SEAL)[0]
        seal(folder, spoil(rng, body))
        return 'bytes of the manifest', False
    return spoil_manifest(rng, folder), False


def attempt(act, *arguments, **more):
    """Return the result, or None after an error of one readable line."""
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
    try:
        return act(*arguments, **more)
    except KdPerceptionError as error:
        line = str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert '\n' not in line
    assert 0 < len(line) <= 1000
    return None


def check(folder, engine, must_fail):
    """Load the bundle in every way; return whether it serves."""
    changed = must_fail if isinstance(must_fail, str) else ''
    if changed:
        must_fail = changed in (MANIFEST, WEIGHTS if engine == 'torch' else DEPLOY)
    found = attempt(load_bundle, folder)
    named = attempt(find_bundle, folder.name, folder.parent)
    assert (found is None) == (named is None)
    attempt(find_bundle, 'nobody', folder.parent)
    model = attempt(ServingModel.load, ServingSettings(
        model=folder.name, models_dir=str(folder.parent), engine=engine, threads=1), 1)
    if model is None:
        return False
    assert (found is None) == bool(changed)  # who reads all refuses all
    assert not must_fail
    json.dumps(model.describe(), allow_nan=True)
    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)

    class Message:
        format, data = 'jpeg', encode_jpeg(picture)

    done = attempt(model.process, Message)
    assert done is None or done.result.mask.shape == (48, 80)
    model.close()
    return True


def memory_bytes(name):
    status = Path('/proc/self/status').read_text().split()
    return int(status[status.index(name) + 1]) * 1024


def main(source, scratch, count):
    """Attack so many copies of a bundle, and print what became of them."""
    source, folder = Path(source), Path(scratch) / 'student'
    engines = ('onnxruntime', 'onnxruntime', 'openvino', 'torch')
    for engine in set(engines):
        shutil.copytree(source, folder)
        assert check(folder, engine, must_fail=False)
        shutil.rmtree(folder)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    before, served = memory_bytes('VmRSS:'), 0
    for number in range(int(count)):
        rng = np.random.default_rng(number)
        shutil.copytree(source, folder)
        kind, must_fail = mutate(rng, folder)
        engine = engines[rng.integers(len(engines))]
        print(f'bundle {number}: {kind}, {engine}', file=sys.stderr, flush=True)
        served += check(folder, engine, must_fail)
        shutil.rmtree(folder)
    print(json.dumps({'served': served, 'grown_bytes': memory_bytes('VmHWM:') - before}))


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux')
@pytest.mark.timeout(180 + BUNDLES)
def test_mutated_bundles(bundles, tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, str(bundles / 'one'), str(tmp_path), str(BUNDLES)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, 'XDG_CACHE_HOME': str(tmp_path / 'cache')})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert 0 < told['served'] < BUNDLES
    assert told['grown_bytes'] < GROWTH_BYTES


if __name__ == '__main__':
    main(*sys.argv[1:])
