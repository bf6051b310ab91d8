"""
The process environment of a run: a private DDS domain, and settings that large images need.

Demo, tests, benchmarks and comparisons run where no vehicle on the network can hear them: in a
domain that no other run of this machine holds, with discovery on this host alone. Settings of
the middleware and of malloc are made only where the user made none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import fcntl
import os
from pathlib import Path
import tempfile

from kd_perception.errors import GraphError
from kd_perception.paths import share_directory

PARENT_VARIABLE = 'KD_PERCEPTION_PARENT'
# Domains whose ports lie below Linux' ephemeral range; 0 is everybody's default.
_DOMAINS = range(1, 102)
_FAST_DDS = ('', 'rmw_fastrtps_cpp', 'rmw_fastrtps_dynamic_cpp')


@contextmanager
def reserved_domain(folder: Path | None = None) -> Iterator[int]:
    """
    Hold a DDS domain that no other run on this machine uses, by a lock that dies with us.

    The user's own domain (``ROS_DOMAIN_ID``) is never taken.

    :param folder: where lock files lie; the system's temporary directory when None.
    :raises GraphError: when all domains are held.
    """
    folder = folder or Path(tempfile.gettempdir())
    own = os.environ.get('ROS_DOMAIN_ID', '')
    # Start at a place of our own, so that users of other temporary directories rarely meet.
    start = os.getpid() % len(_DOMAINS)
    for step in range(len(_DOMAINS)):
        domain = _DOMAINS[(start + step) % len(_DOMAINS)]
        if str(domain) == own:
            continue
        path = folder / f'kd_perception_domain_{domain}.lock'
        try:
            handle = _open_lock(path)
        except OSError:
            continue  # a link, or a file that its owner hides
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            continue
        try:
            yield domain
        finally:
            os.close(handle)
        return
    raise GraphError('every private DDS domain (1-101) is in use on this machine; '
                     'end runs that are left over, or remove '
                     f'{folder}/kd_perception_domain_*.lock')


def _open_lock(path: Path) -> int:
    """
    Return a handle of a lock file that all users of the machine share.

    Domains are shared by all users, so the name is the same for all. Reading is enough for a lock:
    a file that another user has left behind locks as well as one's own. Links are not followed,
    and only a new file is created, which Linux allows in shared directories.

    :raises OSError: when it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:  # another run was faster
        return os.open(path, flags)
    os.fchmod(handle, 0o644)  # whatever the umask says: others must be able to read it
    return handle


def isolation(domain: int, distribution: str | None = None) -> dict[str, str]:
    """
    Return variables that keep a run to this host and ``domain``.

    The user's own peers and discovery server would still be reached; they are emptied.

    :param distribution: ROS distribution; ``$ROS_DISTRO`` when None. Humble has its own variable.
    """
    distribution = os.environ.get('ROS_DISTRO', '') if distribution is None else distribution
    out = {'ROS_DOMAIN_ID': str(domain), 'ROS_STATIC_PEERS': '', 'ROS_DISCOVERY_SERVER': ''}
    if distribution == 'humble':
        out['ROS_LOCALHOST_ONLY'] = '1'
    else:
        out['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    return out


def tuning(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Return variables that large images need, without those that are set already.

    Fast DDS: a shared-memory segment of 16 MB, because in its default of 0.5 MB most large images
    are lost. malloc: keep freed image buffers, which halves latency at 720p, and share two arenas:
    each thread that loads a model would keep one of its own.
    """
    environment = os.environ if environment is None else environment
    out = {'MALLOC_MMAP_THRESHOLD_': '268435456', 'MALLOC_TRIM_THRESHOLD_': '536870912',
           'MALLOC_TOP_PAD_': '67108864', 'MALLOC_ARENA_MAX': '2'}
    if environment.get('RMW_IMPLEMENTATION', '') in _FAST_DDS:
        # Fast DDS 2 knows the first name only, Fast DDS 3 prefers the second.
        for name in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
            out[name] = str(share_directory() / 'config' / 'fastdds.xml')
    return {k: v for k, v in out.items() if k not in environment}
