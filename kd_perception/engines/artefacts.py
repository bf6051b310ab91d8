"""
The cache of what runtimes build from a graph.

Building can take seconds to minutes and depends on the runtime's version and the machine, so its
result is no part of a bundle. An artefact's name is a hash of all it depends on: a stale one is
never found. Files are written whole or not at all; two processes that build the same one at the
same time both succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
import hashlib
import json
import logging
from pathlib import Path
import platform
import shutil
import time

from kd_perception.paths import atomic_directory, atomic_file, cache_directory

log = logging.getLogger(__name__)

# Nobody writes for so long; what is older was left by a kill.
_LEFT_OVER_S = 3600.0
_WHOLE = 'whole'  # the file that says so of a folder


def is_whole(folder: Path) -> bool:
    """Return whether a folder was built to its end."""
    return (folder / _WHOLE).is_file()


class ArtefactCache:
    """
    Built artefacts below one directory.

    :param directory: default ``<cache directory>/engines``.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or cache_directory() / 'engines'

    def path(self, *, content: str, runtime: str, version: str, device: str, precision: str,
             shape: tuple[int, ...], extra: Mapping[str, str] | None = None) -> Path:
        """
        Return where the artefact of this description belongs, whether it exists or not.

        :param content: hash of the graph.
        :param shape: shape of the input, batch included.
        :param extra: further dependencies, e.g. the processor's name.
        """
        key = {'content': content, 'runtime': runtime, 'version': version, 'device': device,
               'precision': precision, 'shape': list(shape), 'machine': platform.machine(),
               **(extra or {})}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.directory / f'{runtime}-{digest[:32]}.blob'

    def read(self, path: Path) -> bytes | None:
        """Return the artefact, or None where there is none or it is damaged."""
        try:
            # Unbuffered, in two parts: to cut 100 MB of bytes holds every other thread up.
            with path.open('rb', buffering=0) as stream:
                digest, blob = stream.read(32), stream.readall()
        except OSError:
            return None
        if hashlib.sha256(blob).digest() != digest:
            log.warning('%s is damaged and will be built again', path)
            return None
        return blob

    def write(self, path: Path, blob: bytes) -> None:
        """Keep an artefact; a cache that cannot be written costs time, not the run."""
        try:
            with atomic_file(path) as temporary, temporary.open('wb') as stream:
                stream.write(hashlib.sha256(blob).digest())
                stream.write(blob)
        except OSError as error:
            log.warning('%s: cannot keep built engines: %s', self.directory, error.strerror)
        else:
            self._sweep(time.time())

    def build_folder(self, folder: Path, build: Callable[[Path], object]) -> bool:
        """
        Keep what a runtime writes by itself, whole or not at all, in place of what was there.

        :param build: lets it write into the folder that it is given, which has another name.
        :returns: whether it could be kept; like ``write``, this is no error.
        """
        try:
            with atomic_directory(folder, overwrite=True) as temporary:
                build(temporary)
                (temporary / _WHOLE).touch()
        except OSError as error:
            log.warning('%s: cannot keep built engines: %s', self.directory, error.strerror)
            return False
        self._sweep(time.time())
        return True

    def _sweep(self, now: float) -> None:
        """Remove what killed builds have left of their writing."""
        for path in self.directory.glob('.*'):
            with suppress(OSError):  # another process may sweep, too
                if now - path.stat().st_mtime <= _LEFT_OVER_S:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
