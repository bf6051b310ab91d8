"""
When a GPU is lost for this process: errors of CUDA that stay until the process ends.

After those below every further call fails with the same error, of whichever runtime: NVIDIA's
reference says of each that the process must be terminated and relaunched. Memory that is full is
none of them, nor is a GPU that is busy or unavailable: another process may have it for itself for
a while. Runtimes pass on CUDA's words, so these are looked for. Not run on hardware yet.
"""

from __future__ import annotations

ADVICE = 'restart the process to use the GPU again'

_FOR_GOOD = (
    'uncorrectable ecc error', 'illegal memory access', 'launch timed out',
    'device-side assert', 'hardware stack error', 'illegal instruction', 'misaligned address',
    'operation not supported on global/shared address space', 'invalid program counter',
    'unspecified launch failure', 'uncorrectable nvlink error')
_FOR_A_WHILE = ('out of memory', 'busy or unavailable')


def is_for_good(words: str) -> bool:
    """Return whether an error of a runtime means that this process has lost the GPU."""
    lower = words.lower()
    return any(sign in lower for sign in _FOR_GOOD)


def is_for_a_while(words: str) -> bool:
    """Return whether an error means that the GPU is full or taken, for now."""
    lower = words.lower()
    return any(sign in lower for sign in _FOR_A_WHILE)


def gpu_of(device: str) -> str:
    """Return the NVIDIA GPU of a device (``cuda``, ``tensorrt:1``) as ``cuda:<n>``, else ''."""
    kind, _, index = device.partition(':')
    return f'cuda:{index or 0}' if kind in ('cuda', 'tensorrt') else ''
