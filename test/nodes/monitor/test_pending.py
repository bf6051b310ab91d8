import os

from kd_perception.nodes.monitor.pending import Progress, read_progress


def test_progress_is_told_without_waiting_for_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, 'fsync', synced.append)
    path = tmp_path / 'run' / 'progress.json'
    progress = Progress(str(path))
    assert read_progress(path) is None
    progress.tell(1, 8, 'measuring')
    progress.tell(2, 8, 'measuring')  # too soon after the first
    assert read_progress(path) == (1, 8, 'measuring')
    progress.tell(8, 8, 'writing', force=True)
    assert read_progress(path) == (8, 8, 'writing')
    assert synced == []
    assert list(path.parent.iterdir()) == [path]


def test_nobody_is_told_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Progress('').tell(1, 1, 'measuring', force=True)
    assert list(tmp_path.iterdir()) == []
