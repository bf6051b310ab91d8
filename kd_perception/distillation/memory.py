"""Running out of memory, told in one line that says what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import re

import torch

from kd_perception.errors import EngineError, TrainingError


@contextmanager
def memory_advice(device: torch.device | str, doing: str, advice: str) -> Iterator[None]:
    """
    Turn an allocation that failed into one line; other errors pass.

    :param device: of torch, or as an engine names it.
    :param doing: what needs the memory, with its numbers.
    :param advice: what to lower.
    :raises TrainingError: when there was not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError, EngineError) as error:
        if not is_out_of_memory(error):
            raise
        asked = asked_for(str(error))
        raise TrainingError(f'out of memory on {device}{_size(device)} {doing}{asked}; {advice}') \
            from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch, CUDA, numpy or a runtime is about memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # Of CPU allocations torch knows no class of errors; neither do CUDA's libraries and runtimes.
    return bool(re.search(r"can't allocate memory|not enough memory|CUDA out of memory|"
                          r'ALLOC_FAILED|Failed to allocate memory|bad_alloc|bad allocation',
                          str(error)))


def asked_for(message: str) -> str:
    """Return ``: 2.0 GiB more were asked for``, or nothing where the error does not say."""
    told = re.search(r'[Tt]ried to allocate ([\d.]+) ([KMG]i?B|bytes)'
                     r'|Unable to allocate ([\d.]+) ([KMGTP]i?B)', message)
    if told is None:
        return ''
    number, unit = (told[1], told[2]) if told[1] else (told[3], told[4])
    if unit == 'bytes':
        number, unit = f'{int(float(number)) / 2 ** 30:.3g}', 'GiB'
    return f': {number} {unit} more were asked for'


def _size(device: torch.device | str) -> str:
    if not str(device).startswith('cuda') or not torch.cuda.is_available():
        return ''
    return f' ({torch.cuda.get_device_properties(device).total_memory / 2 ** 30:.0f} GiB)'
