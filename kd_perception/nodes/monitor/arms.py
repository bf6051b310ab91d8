"""What the monitor knows of one arm: its model, its counters, and what its process uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import time
from typing import Any

import psutil

from kd_perception.classes import ClassSet
from kd_perception.evaluation.comparison import ArmInfo, ArmSpec, ResourceUsage
from kd_perception.nodes.monitor.gpu_memory import GpuMemory
from kd_perception.nodes.perception.slots import COUNTERS

_GPU_EVERY_S = 1.0  # the driver answers in milliseconds, and allocations are few


@dataclass
class ArmState:
    """
    One perception node as seen from outside.

    :param name: its namespace.
    :param model: content of ``~/active_model``; empty until it came.
    :param error: last diagnostic of level ERROR.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    error: str = ''
    counters: dict[str, int] = field(default_factory=dict)
    counters_ns: int = 0
    _process: psutil.Process | None = None
    _cpu_s: float = 0.0
    _since: float = 0.0
    _rss: int = 0
    _gpu: GpuMemory | None = None
    _gpu_bytes: int | None = None
    _next_gpu: float = 0.0

    def on_diagnostics(self, level: int, message: str, values: Mapping[str, str]) -> None:
        """Take one status of the node."""
        self.error = message if level >= 2 else ''
        if all(name in values for name in COUNTERS):
            self.counters = {name: int(values[name]) for name in COUNTERS}
            self.counters_ns = time.monotonic_ns()

    def classes(self) -> ClassSet:
        """Return the class set of the model."""
        return ClassSet.from_dict(self.model['classes'], f'arm {self.name}')

    def spec(self) -> ArmSpec:
        """Return what the arm was asked to be, with the engine that was chosen."""
        asked = self.model['requested']
        return ArmSpec(self.name, self.model['model'], self.model['engine'], asked['device'],
                       asked['precision'], int(self.model['threads']))

    def info(self) -> ArmInfo:
        """Return what the arm really is."""
        model = self.model
        arguments = ', '.join(f'{k}={v}' for k, v in model['network_arguments'].items())
        height, width = model['input']
        return ArmInfo(
            name=self.name, bundle=model['name'], bundle_hash=model['hash'],
            engine=model['engine'], device=model['device'], precision=model['precision'],
            threads=int(model['threads']), parameters=int(model['parameters']),
            network=f'{model["network"]}({arguments})' if model['network'] else '',
            role=model['role'], input_height=int(height), input_width=int(width),
            class_names=self.classes().names)

    def begin_usage(self) -> None:
        """Start to measure what the process uses; does nothing when it runs elsewhere."""
        try:
            self._process = psutil.Process(int(self.model['pid']))
            self._cpu_s = _cpu_seconds(self._process)
            self._since = time.monotonic()
        except psutil.Error:
            self._process = None
        self.sample_usage()

    def sample_usage(self) -> None:
        """Look at the memory now."""
        if self._process is not None:
            try:
                self._rss = max(self._rss, self._process.memory_info().rss)
            except psutil.Error:
                self._process = None

    def gpu_due(self) -> bool:
        """Return whether it is time to ``sample_gpu``."""
        now = time.monotonic()
        due = (self._process is not None and self.model['device'] != 'cpu'
               and now >= self._next_gpu)
        if due:
            self._next_gpu = now + _GPU_EVERY_S
        return due

    def sample_gpu(self) -> None:
        """Ask the driver, which takes milliseconds: not in the thread that takes times."""
        if self._gpu is None and self._process is not None:
            self._gpu = GpuMemory(self._process.pid)
        used = None if self._gpu is None else self._gpu.used()
        if used is not None:
            self._gpu_bytes = max(self._gpu_bytes or 0, used)

    def usage(self) -> ResourceUsage | None:
        """Return the use since ``begin_usage``; None when it could not be measured."""
        if self._process is None:
            return None
        try:
            used = _cpu_seconds(self._process) - self._cpu_s
        except psutil.Error:
            return None
        wall = max(1e-3, time.monotonic() - self._since)
        gpu_mb = None if self._gpu_bytes is None else self._gpu_bytes / 2**20
        return ResourceUsage(100.0 * used / wall, self._rss / 2**20, gpu_mb)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
