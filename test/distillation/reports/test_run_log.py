from __future__ import annotations

from pathlib import Path

import pytest

from kd_perception.distillation.labelling_log import append, LABELLING_LOG, read_cost
from kd_perception.distillation.reports.run_log import read_log
from kd_perception.errors import TrainingError


def test_steps_that_were_taken_again_count_once_and_a_cut_line_not_at_all(tmp_path: Path) -> None:
    (tmp_path / 'train.jsonl').write_text('\n'.join([
        '{"event": "train", "step": 1, "time": 1.0, "loss": 4.0, "kl": 3.0, "ce": 1.0}',
        '{"event": "train", "step": 2, "time": 2.0, "loss": 9.0, "kl": 8.0, "ce": 1.0}',
        '{"event": "validation", "step": 2, "mean_iou": 0.25}',
        '{"event": "train", "step": 3, "time": 3.0, "lo',
        '[1]', '{"event": "resumed", "step": 1, "time": 4.0}',
        '{"event": "train", "step": 2, "time": 5.0, "loss": 2.0, "kl": 1.5, "ce": 0.5}',
        '{"event": "finished", "step": 2, "teachers": []}', '']))
    log = read_log(tmp_path)
    assert log.scalars['loss'].steps.tolist() == [1, 2]
    assert log.scalars['loss'].values.tolist() == [4, 2]
    assert set(log.terms) == {'kl', 'ce'}
    assert log.terms['kl'].values.tolist() == [3, 1.5]
    assert log.validation['mean_iou'].to_dict() == {'steps': [2], 'values': [0.25]}
    assert (log.resumed, log.finished['teachers']) == (1, [])


def test_no_log_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='run directory'):
        read_log(tmp_path)


def test_labelling_cost_adds_up_over_caches_and_processes(tmp_path: Path) -> None:
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    append(tmp_path / 'a', 'shard-0', 10, 4.0, 3.0, 'torch cuda:0 fp16')
    append(tmp_path / 'a', 'shard-1', 5, 2.0, 1.0, 'torch cuda:1 fp16')
    append(tmp_path / 'b', 'shard-0', 1, 1.0, 0.5, 'torch cuda:0 fp16')
    with (tmp_path / 'b' / LABELLING_LOG).open('a') as stream:
        stream.write('{"frames": 99')
    cost = read_cost([tmp_path / 'a', tmp_path / 'b'])
    assert cost is not None
    assert (cost.frames, cost.seconds, cost.teacher_s) == (16, 7.0, 4.5)
    assert cost.ran_on == ('torch cuda:0 fp16', 'torch cuda:1 fp16')
    assert read_cost([tmp_path]) is None
