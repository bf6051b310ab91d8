"""
Model bundles: the only way in which a model travels.

A bundle is a directory: ``bundle.yaml`` (what the model is, with a SHA-256 of every other file),
``weights.safetensors``, ``deploy.onnx``, ``logits.onnx`` and papers that go with them. This module
reads, checks and writes the directory; it knows neither torch nor a runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
import hashlib
import math
from pathlib import Path
import shutil
from typing import Any

import yaml

from kd_perception.classes import ClassSet, MAX_MASK_CLASSES
from kd_perception.errors import BundleError, ConfigError
from kd_perception.paths import atomic_directory, file_hash, models_directory
from kd_perception.plain_yaml import parse_plain_yaml

SCHEMA_VERSION = 1
MANIFEST = 'bundle.yaml'
_SEAL = 'hash: '
WEIGHTS = 'weights.safetensors'
DEPLOY = 'deploy.onnx'
DEPLOY_INT8 = 'deploy.int8.onnx'
LOGITS = 'logits.onnx'
METRICS = 'metrics.json'
MODEL_CARD = 'MODEL_CARD.md'
# Of the training pictures; models of other makers and of early releases have none.
STATISTICS = 'statistics.json'

TASKS = ('segmentation', 'detection', 'classification')
RESIZE_POLICIES = ('stretch', 'letterbox', 'pad')


@dataclass(frozen=True)
class InputSpec:
    """
    What the network wants to see; the graphs do the arithmetic themselves.

    :param height: rows of the network's input.
    :param width: columns of the network's input.
    :param channel_order: ``rgb`` or ``bgr``.
    :param scale: bytes are multiplied by it first.
    :param mean: then this is subtracted, per channel,
    :param std: and the result divided by this.
    :param resize: how a frame of another size is brought to this one (``tasks/placement.py``).
    """

    height: int
    width: int
    channel_order: str = 'rgb'
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: str = 'stretch'

    def __post_init__(self) -> None:
        if not all(type(n) is int and 0 < n <= 16384 for n in (self.height, self.width)):
            raise BundleError(f'input size {self.width}x{self.height} is not possible')
        if not _is_number(self.scale) or self.scale <= 0:
            raise BundleError(f'input scale {self.scale!r} is no number above zero')
        if self.channel_order not in ('rgb', 'bgr'):
            raise BundleError(f'input channel_order {self.channel_order!r}: rgb or bgr')
        if (len(self.mean) != 3 or len(self.std) != 3
                or not all(map(_is_number, (*self.mean, *self.std))) or min(self.std) <= 0):
            raise BundleError('input mean and std need three numbers, std above zero')
        if self.resize not in RESIZE_POLICIES:
            raise BundleError(f'input resize {self.resize!r}: one of {RESIZE_POLICIES}')


@dataclass(frozen=True)
class NetworkSpec:
    """
    How the torch module is rebuilt: a registered builder and plain arguments for it.

    :param builder: name in the network registry; empty for a foreign graph without weights.
    :param arguments: keyword arguments; of a foreign graph, what was read from which file.
    :param channels: the channel spec after slimming or pruning: by layer name ``(inputs,
        outputs)``, with the groups behind them of a grouped convolution, or ``(channels,)`` of a
        normalisation. What is 0 (the classes), and layers that are not named, are as the
        builder makes them.
    """

    builder: str = ''
    arguments: dict[str, Any] = field(default_factory=dict)
    channels: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.builder, str):
            raise BundleError(f'network builder: {self.builder!r} is no name')
        if not isinstance(self.arguments, dict) or not all(
                isinstance(name, str) for name in self.arguments):
            raise BundleError(f'network arguments: {self.arguments!r} are not values by name')
        if not isinstance(self.channels, dict):
            raise BundleError(f'network channels: {self.channels!r} is no mapping')
        for name, found in self.channels.items():
            if (not isinstance(name, str) or not isinstance(found, (list, tuple))
                    or not 1 <= len(found) <= 3 or not all(type(n) is int for n in found)):
                raise BundleError(f'network channels: {name!r}: {found!r} is no list of one to '
                                  'three whole numbers')
        object.__setattr__(self, 'channels', {k: tuple(v) for k, v in self.channels.items()})


@dataclass(frozen=True)
class Lineage:
    """
    Where the model comes from.

    :param parents: hashes of the bundles it was distilled or compressed from.
    :param data: fingerprints of the recordings it was trained on.
    :param recipe: hash of the resolved recipe.
    :param code_version: version of this package.
    """

    parents: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    recipe: str = ''
    code_version: str = ''

    def __post_init__(self) -> None:
        for name in ('parents', 'data'):
            found = getattr(self, name)
            if not isinstance(found, tuple) or not all(isinstance(one, str) for one in found):
                raise BundleError(f'lineage {name}: {found!r} is no list of hashes')
        for name in ('recipe', 'code_version'):
            if not isinstance(getattr(self, name), str):
                raise BundleError(f'lineage {name}: {getattr(self, name)!r} is no string')


@dataclass(frozen=True)
class BundleSpec:
    """All of ``bundle.yaml`` but the file hashes."""

    name: str
    task: str
    role: str
    classes: ClassSet
    input: InputSpec
    network: NetworkSpec = field(default_factory=NetworkSpec)
    lineage: Lineage = field(default_factory=Lineage)
    statistics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ('name', 'role'):
            if not isinstance(getattr(self, name), str):
                raise BundleError(f'{name} {getattr(self, name)!r} is no string')
        if self.task not in TASKS:
            raise BundleError(f'task {self.task!r}: one of {TASKS}')
        if self.task == 'segmentation' and len(self.classes) > MAX_MASK_CLASSES:
            raise BundleError(f'{len(self.classes)} classes do not fit into a mask of bytes: at '
                              f'most {MAX_MASK_CLASSES}')

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML types."""
        out = {
            'schema_version': SCHEMA_VERSION, 'name': self.name, 'task': self.task,
            'role': self.role, 'classes': self.classes.to_dict(), 'input': asdict(self.input),
            'network': asdict(self.network), 'lineage': asdict(self.lineage),
            'statistics': dict(self.statistics)}
        if not self.network.channels:
            del out['network']['channels']  # type: ignore[attr-defined]
        return _plain(out)


@dataclass(frozen=True)
class ModelBundle:
    """
    A bundle on disk whose manifest was read and found consistent.

    :param path: its directory.
    :param spec: what the model is.
    :param files: SHA-256 by file name.
    :param hash: SHA-256 of the manifest above its last line, so of the whole content.
    :param sizes: bytes by file name; bundles of early releases do not say.
    """

    path: Path
    spec: BundleSpec
    files: dict[str, str]
    hash: str
    sizes: dict[str, int] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """
        Return the path of a file that the bundle must have.

        :raises BundleError: when the bundle has none of that name.
        """
        if name not in self.files:
            present = ', '.join(sorted(self.files)) or 'no files'
            raise BundleError(f'{self.path}: has no {name}; it has {present}')
        return self.path / name

    def has(self, name: str) -> bool:
        """Return whether the bundle has a file of that name."""
        return name in self.files

    def check_complete(self, *names: str) -> None:
        """
        Check, without reading them, that the named files (or all) are there in full length.

        :raises BundleError: when a file is missing or of another length.
        """
        for name in names or tuple(self.files):
            path = self.file(name)
            with _in_one_line(path):
                if not path.is_file():
                    raise BundleError(f'{path}: is missing; copy the whole bundle again')
                size = path.stat().st_size
            if size != self.sizes.get(name, size):
                raise BundleError(f'{path}: has {size} of {self.sizes[name]} bytes; copy the '
                                  'bundle again')

    def verify(self, *names: str) -> None:
        """
        Check content hashes: of the named files, or of all.

        :raises BundleError: when a file is missing or not readable, or a byte differs.
        """
        for name in names or tuple(self.files):
            self.check_complete(name)
            path = self.file(name)
            with _in_one_line(path):
                digest = file_hash(path)
            if digest != self.files[name]:
                raise BundleError(f'{path}: content differs from its hash in {MANIFEST}; '
                                  'the file was changed or damaged, copy the bundle again')


def load_bundle(path: Path | str, *, verify: bool = True) -> ModelBundle:
    """
    Read a bundle directory.

    :param verify: also hash every file (about 1 s per GB).
    :raises BundleError: one line that says what is wrong and where.
    """
    with _in_one_line(path):
        path = Path(path).expanduser()
        manifest = path / MANIFEST
        if not path.is_dir():
            raise BundleError(f'{path}: no such model bundle (a directory with {MANIFEST})')
        if not manifest.is_file():
            raise BundleError(f'{path}: is no model bundle: {MANIFEST} is missing')
    with _in_one_line(manifest):
        content = manifest.read_bytes()
    # The seal comes first: a manifest that was changed is not even parsed.
    body, _, seal = content.rpartition(_SEAL.encode())
    digest = hashlib.sha256(body).hexdigest()
    if seal != f'{digest}\n'.encode():
        raise BundleError(f'{manifest}: was changed after it was written (its last line, the hash '
                          'of the rest, does not fit); copy the bundle again')
    try:
        data = parse_plain_yaml(content)
    except ConfigError as error:
        raise BundleError(f'{manifest}: {error}') from None
    if not isinstance(data, dict):
        raise BundleError(f'{manifest}: is no mapping')
    version = data.get('schema_version')
    if version != SCHEMA_VERSION:
        raise BundleError(f'{manifest}: schema_version {version!r} is unknown to this release, '
                          f'which reads {SCHEMA_VERSION}; update kd_perception')
    bundle = ModelBundle(path=path, spec=_spec(data, manifest), files=_files(data, manifest),
                         hash=digest, sizes=_sizes(data, manifest))
    if verify:
        bundle.verify()
    return bundle


def find_bundle(name: str, directory: Path | str | None = None, *,
                verify: bool = True) -> ModelBundle:
    """
    Load a bundle by path, or by name below ``directory`` (default: the models directory).

    :raises BundleError: when neither exists; the message lists the names that do.
    """
    with _in_one_line(name):
        given = Path(name).expanduser()
        folder = Path(directory).expanduser() if directory else models_directory()
        if given.is_dir() and (given.is_absolute() or '/' in name
                               or not (folder / name).is_dir()):
            return load_bundle(given, verify=verify)
        if (folder / name / MANIFEST).is_file():
            return load_bundle(folder / name, verify=verify)
        known = sorted(p.parent.name for p in folder.glob(f'*/{MANIFEST}'))
    raise BundleError(f'no model named {name!r}: neither a bundle at that path nor in {folder} '
                      f'(there: {", ".join(known) or "none"})')


def write_bundle(path: Path, spec: BundleSpec, files: Mapping[str, bytes | Path], *,
                 overwrite: bool = False) -> ModelBundle:
    """
    Write a bundle atomically: complete under its name, or not at all.

    :param files: content by file name: bytes, or the path of a file to copy.
    :raises BundleError: when ``path`` exists and ``overwrite`` is false, or is no bundle.
    """
    path = Path(path)
    if (overwrite and path.exists() and not (path / MANIFEST).is_file()
            and not (path.is_dir() and not any(path.iterdir()))):
        raise BundleError(f'{path}: is no model bundle, so it is not overwritten; choose another '
                          'name')
    try:
        with atomic_directory(path, overwrite=overwrite) as folder:
            entries = {}
            for name, content in sorted(files.items()):
                if isinstance(content, Path):
                    shutil.copyfile(content, folder / name)
                else:
                    (folder / name).write_bytes(content)
                entries[name] = {'sha256': file_hash(folder / name),
                                 'bytes': (folder / name).stat().st_size}
            data = {**spec.to_dict(), 'files': entries}
            text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()
            seal = hashlib.sha256(text).hexdigest()
            (folder / MANIFEST).write_bytes(text + f'{_SEAL}{seal}\n'.encode())
    except FileExistsError:
        raise BundleError(f'{path}: exists; choose another name or pass --overwrite') from None
    return load_bundle(path, verify=False)


def _spec(data: dict[str, Any], where: Path) -> BundleSpec:
    known = {'schema_version', 'name', 'task', 'role', 'classes', 'input', 'network', 'lineage',
             'statistics', 'files', 'hash'}
    unknown = set(data) - known
    if unknown:
        raise BundleError(f'{where}: unknown keys {sorted(map(str, unknown))}')
    try:
        return BundleSpec(
            name=data['name'], task=data['task'], role=data['role'],
            classes=ClassSet.from_dict(data['classes'], f'{where}: classes'),
            input=_section(InputSpec, data['input'], f'{where}: input'),
            network=_section(NetworkSpec, data.get('network') or {}, f'{where}: network'),
            lineage=_section(Lineage, data.get('lineage') or {}, f'{where}: lineage'),
            statistics=dict(data.get('statistics') or {}))
    except KeyError as error:
        raise BundleError(f'{where}: key {error} is missing') from None
    except (BundleError, ConfigError) as error:
        message = str(error)
        raise BundleError(message if str(where) in message else f'{where}: {message}') from None
    except (TypeError, ValueError) as error:
        raise BundleError(f'{where}: {error}') from None


def _section(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise BundleError(f'{where}: is no mapping')
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        raise BundleError(f'{where}: unknown keys {sorted(map(str, unknown))}')
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
    except TypeError as error:
        raise BundleError(f'{where}: {error}') from None


def _files(data: dict[str, Any], where: Path) -> dict[str, str]:
    files = data.get('files')
    if not isinstance(files, dict):
        raise BundleError(f'{where}: key "files" is missing')
    out = {}
    for name, entry in files.items():
        if (not isinstance(name, str) or '/' in name or name in ('.', '..')
                or not isinstance(entry, dict)):
            raise BundleError(f'{where}: files: {name!r} is no plain file name with a hash')
        out[name] = str(entry.get('sha256'))
    return out


def _sizes(data: dict[str, Any], where: Path) -> dict[str, int]:
    sizes = {name: entry['bytes'] for name, entry in data['files'].items() if 'bytes' in entry}
    for name, size in sizes.items():
        if type(size) is not int or size < 0:
            raise BundleError(f'{where}: files: {name}: bytes {size!r} is no number')
    return sizes


def _is_number(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and math.isfinite(value))


def _plain(value: Any) -> Any:
    """Return tuples as lists, so that YAML stays free of tags."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


@contextmanager
def _in_one_line(what: Path | str) -> Iterator[None]:
    """Say what cannot be read: a path may be too long, forbidden, or name an unknown home."""
    try:
        yield
    except OSError as error:
        raise BundleError(f'{what}: not readable: {error.strerror or error}') from None
    except (RuntimeError, ValueError) as error:  # ~nobody, a zero byte
        raise BundleError(f'{what}: is no usable path: {error}') from None
