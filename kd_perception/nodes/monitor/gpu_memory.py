"""
GPU memory of a process, asked of NVIDIA's management library (NVML). Not run on hardware yet.

NVML counts by process, and knows the host's process ids: from within a container of its own the
monitor finds nothing, which is None here and not zero.
"""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger(__name__)


class GpuMemory:
    """
    What one process holds on all GPUs; asks nothing more once NVML has failed.

    :param nvml: the module ``pynvml`` (package nvidia-ml-py); None to import it.
    """

    def __init__(self, pid: int, nvml: Any = None) -> None:
        self._pid = pid
        self._gpus: list[Any] = []
        try:
            if nvml is None:
                import pynvml
                nvml = pynvml
            self._nvml = nvml
            nvml.nvmlInit()
            self._gpus = [nvml.nvmlDeviceGetHandleByIndex(index)
                          for index in range(nvml.nvmlDeviceGetCount())]
        except Exception as error:  # not installed, no driver: NVML's own errors
            _log.debug('no GPU memory is measured: %s', error)

    def used(self) -> int | None:
        """Return bytes, or None where nobody can say."""
        found: list[int] = []
        try:
            for gpu in self._gpus:
                found += [one.usedGpuMemory
                          for one in self._nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
                          if one.pid == self._pid and one.usedGpuMemory is not None]
        except Exception as error:
            _log.debug('GPU memory is measured no more: %s', error)
            self._gpus = []
            return None
        return sum(found) if found else None
