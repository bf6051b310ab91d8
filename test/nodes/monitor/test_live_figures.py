"""Figures of a running comparison: right in any order of events, and readable by others."""

import numpy as np
import pytest

from kd_perception.evaluation.joining import Published
from kd_perception.nodes.monitor.live_figures import LiveFigures
from kd_perception.nodes.monitor.pending import Progress, read_live, read_progress
from kd_perception.nodes.monitor.run_view import disagreement, summary_values
from kd_perception.nodes.monitor.worst_frames import FinishedFrame

MS = 1_000_000


def key(index):
    return index * 10, 'c'


def publish(figures, index, arm='a'):
    figures.on_published(Published(arm, *key(index), index, index * 100 * MS))


def answer(figures, index, latency_ms, arm='a'):
    figures.on_result(arm, key(index), (index * 100 + latency_ms) * MS)


@pytest.mark.parametrize('result_first', [False, True])
def test_latency_rate_and_losses(result_first):
    figures = LiveFigures(['a', 'b'], warmup=2)
    for index in range(12):
        steps = [lambda i=index: publish(figures, i)]
        if index != 7:  # it is never answered
            steps.append(lambda i=index: answer(figures, i, 10 + i))
        for step in reversed(steps) if result_first else steps:
            step()
        publish(figures, index, 'b')
    a, b = figures.arms()
    assert (a.served, a.answered, a.lost) == (10, 9, 1)
    latencies = [10 + i for i in range(2, 12) if i != 7]
    assert a.p50_ms == pytest.approx(np.median(latencies))
    assert a.p95_ms == pytest.approx(np.percentile(latencies, 95))
    assert a.rate_hz == pytest.approx(8 / ((9 * 100 + 9) / 1e3))
    assert (b.served, b.answered, b.p50_ms, b.rate_hz, b.miou) == (10, 0, None, 0.0, None)


def test_miou_is_over_all_pixels_so_far():
    figures = LiveFigures(['a'], warmup=0)
    for counts in (((10, 10, 20), (0, 10, 0)), ((0, 0, 0), (20, 20, 20))):
        figures.on_frame(FinishedFrame(0, key(0), None, {}, {'a': counts}))
    assert figures.arms()[0].miou == pytest.approx((10 / 20 + 20 / 30) / 2)


def test_figures_go_through_the_progress_file(tmp_path):
    figures = LiveFigures(['a'], warmup=0)
    publish(figures, 0)
    answer(figures, 0, 12)
    path = tmp_path / 'told.json'
    assert read_live(path) == ()
    progress = Progress(str(path))
    progress.tell(1, 4, 'measuring', arms=figures.arms)
    assert read_progress(path) == (1, 4, 'measuring')
    assert read_live(path) == figures.arms()
    path.write_text('{"arms": [{"arm": "a"}]}')
    assert read_live(path) == ()
    values = summary_values(figures.arms()[0])
    assert (values['p50_ms'], values['miou'], values['answered']) == ('12', '', '1')


def test_disagreement_is_red_where_any_arm_differs():
    palette = np.zeros((256, 3), np.uint8)
    palette[1] = 9
    first = np.zeros((4, 6), np.uint8)
    second = first.copy()
    second[0, 0] = 1
    picture = disagreement({'a': first, 'b': second}, palette)
    assert picture.shape == (4, 3 * 6 + 2 * 4, 3)
    assert picture[0, 10].tolist() == [9, 9, 9]  # the second mask, behind a gap
    assert picture[0, 20].tolist() != picture[1, 20].tolist() == picture[0, 21].tolist()
