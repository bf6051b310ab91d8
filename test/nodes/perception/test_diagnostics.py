"""What stands in ``/diagnostics`` stands in the documentation, and the other way round."""

from pathlib import Path
import re

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest

from kd_perception.bundle import find_bundle, STATISTICS, write_bundle
from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.tasks.familiarity import FEATURES, summarize

DOC = Path(__file__).resolve().parents[3] / 'docs' / 'nodes.md'
CAMERAS = ('front', 'left')
SWAPS = {f'swap_{n}' for n in range(1, 6)}


def documented(letter):
    """Return the keys that the table in the documentation has for a kind of status."""
    text = DOC.read_text()
    table = text[text.index('**Diagnostics.**'):text.index('**No frame lost unseen.**')]
    rows = [line.split('|') for line in table.splitlines() if line.startswith('| `')]
    keys = {key for row in rows if letter in row[2] for key in re.findall(r'`(\w+)`', row[1])}
    return keys | SWAPS if 'swap_1' in keys else keys  # the documentation has dots between them


@pytest.fixture
def options(bundles, tmp_path):
    """Return parameters with a model that scores pictures."""
    one = find_bundle('one', bundles)
    known = summarize(np.random.default_rng(0).normal(size=(100, len(FEATURES))), [0] * 100)
    write_bundle(tmp_path / 'one', one.spec, {
        **{name: one.file(name) for name in one.files}, STATISTICS: known.to_bytes()})
    return {'models_dir': str(tmp_path), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0, 'cameras': CAMERAS}


def test_every_key_is_documented(bench, camera, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options) as node:
        for name in CAMERAS:
            camera(name).ask()
        for threads in (2, 1, 2, 1, 2):
            assert bench.set_parameters('/perception', threads=threads)[0].successful
            bench.spin_until(lambda: not node._switch.loading)

        def keys():
            kinds = {'perception': 'N', 'camera': 'C', 'pictures': 'P'}
            return {kinds[s.name.split(': ')[1].split()[0]]: set(values_of(s))
                    for s in found[-1].status} if found else {}

        bench.spin_until(lambda: 'swap_5' in keys().get('N', ())
                         and 'unfamiliar_score' in keys().get('P', ()))
        for letter, told in keys().items():
            assert told == documented(letter), letter
