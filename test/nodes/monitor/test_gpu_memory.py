"""NVML itself needs a driver; what it answers is as its documentation says."""

import sys
from types import SimpleNamespace

from kd_perception.nodes.monitor.gpu_memory import GpuMemory

MIB = 2**20


def nvml_of(*gpus):
    def processes(handle):
        if nvml.lost:
            raise RuntimeError('GPU is lost')
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpus[handle]]

    nvml = SimpleNamespace(
        lost=False, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=processes)
    return nvml


def test_memory_of_one_process_on_all_gpus():
    nvml = nvml_of([(7, 100 * MIB), (8, 5 * MIB)], [(7, 20 * MIB)])
    assert GpuMemory(7, nvml).used() == 120 * MIB
    assert GpuMemory(9, nvml).used() is None


def test_a_driver_that_does_not_tell_is_not_zero():
    assert GpuMemory(7, nvml_of([(7, None)])).used() is None


def test_a_gpu_that_is_lost_ends_the_asking_alone():
    nvml = nvml_of([(7, MIB)])
    memory = GpuMemory(7, nvml)
    nvml.lost = True
    assert memory.used() is None
    nvml.lost = False
    assert memory.used() is None


def test_without_nvml_nothing_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    assert GpuMemory(7).used() is None
