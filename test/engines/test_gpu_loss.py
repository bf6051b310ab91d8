"""Which errors of runtimes mean that the process has lost its GPU."""

from __future__ import annotations

import pytest

from kd_perception.engines.gpu_loss import gpu_of, is_for_a_while, is_for_good
from kd_perception.engines.onnxruntime_engine import _reason


@pytest.mark.parametrize('words', [
    'torch failed: CUDA error: device-side assert triggered',
    'torch failed: CUDA error: unspecified launch failure',
    'onnxruntime failed: CUDA failure 700: an illegal memory access was encountered ; GPU=0',
    'tensorrt failed: Error Code 1: Cuda Runtime (misaligned address)',
    'CUDA: uncorrectable ECC error encountered'])
def test_for_good(words: str) -> None:
    assert is_for_good(words)
    assert not is_for_a_while(words)


@pytest.mark.parametrize('words', [
    'torch failed: CUDA out of memory. Tried to allocate 20.00 MiB', 'CUDA: out of memory',
    'onnxruntime failed: CUDA failure 2: out of memory ; GPU=0',
    'CUDA: CUDA-capable device(s) is/are busy or unavailable'])
def test_for_a_while(words: str) -> None:
    assert is_for_a_while(words)
    assert not is_for_good(words)


@pytest.mark.parametrize('words', [
    'tensorrt failed: ', 'torch failed: CUDA error: invalid argument',
    'the graph takes exactly 4 images'])
def test_none_of_both(words: str) -> None:
    assert not is_for_a_while(words)
    assert not is_for_good(words)


def test_one_gpu_has_several_names() -> None:
    assert {gpu_of(name) for name in ('cuda', 'cuda:0', 'tensorrt', 'tensorrt:0')} == {'cuda:0'}
    assert gpu_of('tensorrt:1') == gpu_of('cuda:1') == 'cuda:1'
    assert gpu_of('cpu') == gpu_of('gpu') == ''


def test_the_words_of_cuda_are_not_cut_off() -> None:
    """As ONNX Runtime puts them: behind the node, the source file and a signature."""
    error = RuntimeError(
        '[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. '
        "Name:'/logits/module/stage/block/Conv' Status Message: " + 'cuda_call.cc:129 ' * 20
        + 'CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=car')
    assert _reason(error).startswith('CUDA failure 700: an illegal memory access')
    assert _reason(RuntimeError('another\nfailure')) == 'another'
