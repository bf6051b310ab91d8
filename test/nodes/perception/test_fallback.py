import pytest

from kd_perception.nodes.perception.fallback import alternatives, EngineFallback, FallbackOptions
from kd_perception.nodes.perception.serving import ServingSettings

ENGINES = ('openvino', 'onnxruntime', 'torch')


def order(**failing):
    found = alternatives(ServingSettings(model='m', threads=3), available=ENGINES, **failing)
    assert {(s.model, s.threads) for s in found} == {('m', 3)}
    return [(s.engine, s.device, s.precision) for s in found]


def test_the_same_precision_first_and_the_cpu_last():
    assert order(engine='torch', device='cuda:1', precision='fp16') == [
        ('onnxruntime', 'cuda:1', 'fp16'), ('onnxruntime', 'cuda:1', 'auto'),
        ('openvino', 'cpu', 'fp16'), ('onnxruntime', 'cpu', 'fp16'), ('torch', 'cpu', 'fp16'),
        ('openvino', 'cpu', 'auto'), ('onnxruntime', 'cpu', 'auto'), ('torch', 'cpu', 'auto')]


def test_the_gpu_serves_without_tensorrt():
    for index in ('', ':1'):
        assert order(engine='onnxruntime', device=f'tensorrt{index}', precision='fp32') == [
            ('onnxruntime', f'cuda{index}', 'fp32'), ('torch', f'cuda{index}', 'fp32'),
            ('onnxruntime', f'cuda{index}', 'auto'), ('torch', f'cuda{index}', 'auto'),
            ('openvino', 'cpu', 'fp32'), ('onnxruntime', 'cpu', 'fp32'), ('torch', 'cpu', 'fp32'),
            ('openvino', 'cpu', 'auto'), ('onnxruntime', 'cpu', 'auto'), ('torch', 'cpu', 'auto')]


def test_nothing_is_tried_on_a_gpu_that_is_lost():
    for device in ('cuda', 'tensorrt:0'):
        found = order(engine='torch', device=device, precision='fp16', lost={'cuda:0'})
        assert {place for _, place, _ in found} == {'cpu'}
    assert order(engine='torch', device='cuda:1', precision='fp16', lost={'cuda:0'})[0] == (
        'onnxruntime', 'cuda:1', 'fp16')


def test_never_the_engine_that_fails_on_its_device():
    assert order(engine='onnxruntime', device='cpu', precision='fp32') == [
        ('openvino', 'cpu', 'fp32'), ('torch', 'cpu', 'fp32'),
        ('openvino', 'cpu', 'auto'), ('torch', 'cpu', 'auto')]


def test_an_engine_is_left_after_failures_in_a_row():
    guard = EngineFallback(FallbackOptions(failures=3))
    assert [guard.failed(), guard.failed()] == [False, False]
    guard.answered()
    assert [guard.failed() for _ in range(6)] == [False, False, True, False, False, False]
    assert guard.retry_in_s(0.0) is None


def test_it_is_tried_again_more_and_more_rarely():
    guard = EngineFallback(FallbackOptions(first_retry_s=10.0, longest_retry_s=40.0))
    now, waits = 0.0, []
    for _ in range(5):
        guard.left(now)
        waits.append(guard.retry_in_s(now))
        assert not guard.due(now + waits[-1] - 0.1)
        assert guard.due(now + waits[-1])
        now += waits[-1]
    assert waits == [10.0, 20.0, 40.0, 40.0, 40.0]


def test_what_is_left_for_good_is_not_tried_again():
    guard = EngineFallback()
    guard.left(0.0, for_good=True)
    assert guard.retry_in_s(0.0) is None
    assert not guard.due(1e9)


@pytest.mark.parametrize(('served_s', 'wait_s'), [(5.0, 20.0), (61.0, 10.0)])
def test_only_an_engine_that_served_long_is_trusted_again(served_s, wait_s):
    guard = EngineFallback(FallbackOptions(settled_s=60.0))
    guard.left(0.0)
    guard.restored(10.0)
    assert guard.retry_in_s(10.0) is None
    guard.left(10.0 + served_s)
    assert guard.retry_in_s(10.0 + served_s) == wait_s
    guard.reset()
    assert guard.retry_in_s(100.0) is None
    guard.left(100.0)
    assert guard.retry_in_s(100.0) == 10.0
