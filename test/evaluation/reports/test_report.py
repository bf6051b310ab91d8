"""The report says what the run holds, in three files, whole or not at all."""

from __future__ import annotations

import csv
from dataclasses import asdict, replace
from html.parser import HTMLParser
import io
import json
import re

import numpy as np
import pytest

from kd_perception.errors import ConfigError
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.baseline import compare_reports, Limits
from kd_perception.evaluation.metrics.frame_accuracy import frame_miou
from kd_perception.evaluation.reports import figures, plots
from kd_perception.evaluation.reports import report as report_module
from kd_perception.evaluation.reports.report import frames_csv, write_analysis, write_report


class _Checker(HTMLParser):
    """Collects what a browser would load or run, and checks that tags close."""

    VOID = {'meta', 'img', 'br', 'link', 'input', 'hr', 'wbr'}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ('script', 'link', 'iframe')
        self.sources += [v or '' for k, v in attrs if k in ('src', 'href')]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope='module')
def run(make_run):
    return make_run(frames=40, warmup=4, lost_b=(9, 10), pictures=2)


@pytest.fixture(scope='module')
def report(run, tmp_path_factory):
    return write_report(run, tmp_path_factory.mktemp('report'))


def test_only_three_files_are_left(report):
    assert sorted(p.name for p in report.json.parent.iterdir()) == [
        'frames.csv', 'report.html', 'report.json']


def test_json_holds_the_numbers_of_the_run(report, run):
    data = json.loads(report.json.read_text())
    assert data['schema_version'] == 1
    assert data['spec']['frames'] == 40
    assert data['arms']['a']['info']['bundle_hash'] == 'ab' * 32
    stats = data['arms']['b']['statistics']
    assert (stats['published'], stats['status']['ok'], stats['status']['lost']) == (40, 38, 2)
    latencies = [r.latency_ms for r in run.rows
                 if r.arm == 'b' and r.index >= 4 and r.received_ns]
    assert stats['latency']['p50'] == pytest.approx(np.median(latencies))
    assert stats['latency']['p99'] == pytest.approx(np.percentile(latencies, 99))
    comparison = data['comparisons'][0]
    assert comparison['latency']['n'] == 38
    assert comparison['latency']['median_ratio']['low'] > 5
    assert comparison['accuracy']['difference']['estimate'] < 0
    assert comparison['verdict']['latency'] == 'faster'
    assert comparison['agreement'] == pytest.approx(
        np.trace(run.agreement['b']) / run.agreement['b'].sum())
    assert data['arms']['a']['accuracy']['iou'][5] is None  # no traffic light anywhere
    assert data['arms']['a']['confusion'] == run.confusion['a'].tolist()
    assert len(data['classes']) == 12


def test_same_run_gives_the_same_report(report, run, tmp_path):
    again = write_report(run, tmp_path)
    assert again.json.read_bytes() == report.json.read_bytes()
    assert again.csv.read_bytes() == report.csv.read_bytes()


def test_csv_has_every_row(report, run):
    with report.csv.open(newline='') as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(run.rows)
    for line, row in zip(lines, run.rows, strict=True):
        assert int(line['stamp_ns']) == row.stamp_ns
        assert (line['latency_ms'] == '') == (row.status == 'lost')
        assert int(line['warmup']) == (row.index < 4)
        if row.status == 'ok':
            assert float(line['latency_ms']) == pytest.approx(row.latency_ms, abs=1e-5)
            assert float(line['inference_ms']) == pytest.approx(row.stages['inference'], abs=1e-5)
            assert 0.9 < float(line['pixel_accuracy']) <= 1
            assert 0.5 < float(line['miou']) <= 1


def test_csv_and_page_mean_the_same_miou(run):
    """A speck of a class, in the truth or only in the mask, decides over neither."""
    speck = run.classes.names.index('person')
    counts = [list(c) for c in run.rows[0].counts]
    counts[speck] = [0, 1, 1]
    counts[5] = [0, 0, 1]  # in neither truth nor mask until now
    counts = tuple(tuple(c) for c in counts)
    rows = (replace(run.rows[0], counts=counts), *run.rows[1:])
    line = next(csv.DictReader(io.StringIO(frames_csv(replace(run, rows=rows)))))
    assert float(line['miou']) == pytest.approx(frame_miou(counts), abs=1e-6)
    assert frame_miou(counts) == pytest.approx(frame_miou(run.rows[0].counts))


def test_page_needs_nothing_but_itself(report):
    page = report.html.read_text()
    checker = parse(page)
    pictures = [s for s in checker.sources if not s.startswith('#')]
    assert all(s.startswith('data:image/') for s in pictures)
    # Links lead to sections of the page itself.
    assert {s[1:] for s in checker.sources if s.startswith('#')} == set(
        re.findall(r'<section id="([a-z-]+)"', page))
    assert 'url(' not in page
    assert 'src="http' not in page
    assert '@import' not in page
    # Six plots, and six panels for each of two frames.
    assert len(pictures) == 6 + 12
    assert page.count('alt=""') == 0
    # Every table can be reached and scrolled by keyboard, and names its rows and columns.
    assert page.count('<div class="scroll" tabindex="0" role="region" aria-label=') > 4
    assert '<th scope="row">latency, median</th>' in page
    assert len(report.html.read_bytes()) < 3_000_000
    text = ' '.join(checker.text)
    for phrase in ('street-student answers', 'lost 2 of 40', 'a <fast> CPU & more', 'vehicle',
                   'ground truth', 'wrong in street-student', 'lockstep'):
        assert phrase in text, phrase


def test_page_without_truth_speaks_of_agreement(make_run, tmp_path):
    run = make_run(frames=20, labelled=False, pictures=1)
    page = write_report(run, tmp_path).html.read_text()
    text = ' '.join(parse(page).text)
    assert 'no ground truth' in text
    assert 'differs from street-teacher' in text
    assert 'mIoU, classes' not in text


def test_dollars_in_a_name_are_no_formula(make_run):
    name = 'a$x^{$b'
    share = np.array([0.5, 0.5])
    assert figures.class_bars([name, 'road'], share, [(name, '#000000', share)])
    run = make_run(frames=15, pictures=0)
    analysis = analyse(replace(run, arms=(replace(run.arms[0], bundle=name), run.arms[1])))
    assert plots.latency_distribution(analysis)
    assert plots.timeline(analysis)


def test_page_of_bare_rows(make_run, tmp_path):
    """A live topic without stages, pictures, resources or counters still gives a report."""
    run = make_run(frames=15, labelled=False, pictures=0)
    run = replace(run, rows=tuple(replace(r, stages={}) for r in run.rows), resources={},
                  counters={}, agreement={}, host={}, versions={})
    page = parse(write_report(run, tmp_path).html.read_text())
    assert 'latency, median' in ' '.join(page.text)


def test_single_arm_and_all_lost(make_run, tmp_path):
    run = make_run(frames=15, pictures=1)
    alone = replace(run, arms=run.arms[:1], agreement={})
    assert 'measured alone' in write_report(alone, tmp_path / 'alone').html.read_text()
    silent = replace(run, pictures=(), confusion={}, agreement={}, rows=tuple(
        replace(r, received_ns=None, status='lost', counts=None, stages={}) for r in run.rows))
    written = write_report(silent, tmp_path / 'silent')
    parse(written.html.read_text())
    data = json.loads(written.json.read_text())
    assert data['arms']['a']['statistics']['latency']['p50'] is None
    assert data['comparisons'][0]['verdict']['latency'] == 'not measured'


def test_page_of_a_single_frame_shows_no_interval_that_is_not_there(make_run, tmp_path):
    written = write_report(make_run(frames=1, pictures=0), tmp_path)
    assert 'nan' not in ' '.join(parse(written.html.read_text()).text)
    arm = json.loads(written.json.read_text())['arms']['a']
    assert (arm['accuracy']['miou']['low'], arm['accuracy']['miou']['high']) == (0.0, 1.0)


def test_page_of_labels_that_all_mean_nothing(make_run, tmp_path):
    run = make_run(frames=10, pictures=0)
    nothing = ((0, 0, 0),) * len(run.classes)
    run = replace(run, rows=tuple(replace(r, counts=nothing) for r in run.rows))
    written = write_report(run, tmp_path)
    assert 'nan' not in ' '.join(parse(written.html.read_text()).text)
    verdict = json.loads(written.json.read_text())['comparisons'][0]['verdict']
    assert verdict['accuracy'] == 'not measured'


def test_a_run_without_frames_says_why(make_run, tmp_path):
    run = replace(make_run(frames=2, pictures=0), rows=(), notes=('9 frames were skipped.',))
    with pytest.raises(ConfigError, match=r'no measured frames .*; 9 frames were skipped$'):
        write_report(run, tmp_path)


def test_run_without_measured_frames_is_refused_and_writes_nothing(make_run, tmp_path):
    run = make_run(frames=2, warmup=3, pictures=0)
    run = replace(run, rows=tuple(r for r in run.rows if r.index < 3))
    with pytest.raises(ConfigError, match='no measured frames'):
        write_report(run, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_failure_leaves_the_older_report(make_run, tmp_path, monkeypatch):
    run = make_run(frames=12, pictures=0)
    before = write_report(run, tmp_path).json.read_bytes()

    def fail(analysis: object, baseline: object) -> str:
        raise RuntimeError('no fonts')

    monkeypatch.setattr(report_module, 'render', fail)
    with pytest.raises(RuntimeError):
        write_report(replace(run, started='later'), tmp_path)
    assert (tmp_path / 'report.json').read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_documentation_names_every_key_of_the_json(report):
    """docs/report.md is the schema's home: a key that is not there is not documented."""
    from kd_perception.paths import share_directory
    page = (share_directory() / 'docs' / 'report.md')
    if not page.is_file():
        pytest.skip('docs/ is not installed')
    documented = set(re.findall(r'`([a-z_0-9]+)`', page.read_text()))
    data = json.loads(report.json.read_text())

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {k for v in value.values() for k in keys(v)}
        if isinstance(value, list):
            return {k for v in value for k in keys(v)}
        return set()

    free = set(data['host']) | set(data['versions']) | {'a', 'b', '0', '1'}
    against = asdict(compare_reports(data, data, Limits()))
    assert keys(data) - free - documented == set()
    assert keys(against) - documented == set()
    assert {c['metric'] for c in against['changes']} - set(data['classes']) <= documented
    assert set(report.csv.read_text().splitlines()[0].split(',')) <= documented


def test_worst_frames_are_shown_with_what_they_scored(make_run, tmp_path):
    run = make_run(frames=30, pictures=2)
    first, second = run.pictures
    pictures = (first, replace(second, worst=True), replace(first, image=None, worst=True))
    page = write_report(replace(run, pictures=pictures), tmp_path).html.read_text()
    text = ' '.join(parse(page).text)
    assert re.search(r'The 2 frames where the mIoU of street-student is lowest', text)
    assert f'Frame {second.index} · mIoU street-teacher' in text
    worst, ordinary = page.split('<h2>Ordinary frames</h2>')
    # The second of the worst has lost its picture: everything but the camera is shown.
    assert worst.split('<h2>Worst frames</h2>')[1].count('<img ') == 6 + 5
    assert ordinary.count('<img ') == 6


def test_verdict_comes_first_with_its_margin_drawn(report):
    page = report.html.read_text()
    header, rest = page.split('</header>')
    assert 'street-student answers' in header
    assert '95\u00a0% interval' in header
    cards = rest.split('<section')[0]
    assert cards.count('<svg class="strip"') == 2
    assert 'margin −2' in cards
    assert '2 of 40' in cards


def test_few_frames_leave_an_end_of_a_percentile_open(report):
    data = json.loads(report.json.read_text())
    found = data['arms']['a']['intervals']
    assert found['p99']['high'] is None
    assert found['p50']['low'] < data['arms']['a']['statistics']['latency']['p50']
    assert '…\u00a0?)' in report.html.read_text()


def test_what_a_mean_iou_hides_has_its_own_section(make_run, tmp_path, report):
    page = write_report(make_run(frames=30, pictures=0, detailed=True), tmp_path).html.read_text()
    parse(page)
    own = page.split('<h2>Where accuracy matters</h2>')[1].split('</section>')[0]
    for phrase in ('boundary F-score', 'pixels that flicker', 'calibration error',
                   'Objects found by distance', 'Boundary F-score by class', 'vehicle'):
        assert phrase in own, phrase
    assert own.count('<img ') == 2
    assert 'Where accuracy matters' not in report.html.read_text()  # nothing of it was measured


def test_a_baseline_has_its_section_and_its_place_in_the_json(run, report, tmp_path):
    data = json.loads(report.json.read_text())
    assert data['baseline'] is None
    found = compare_reports(data, data, Limits(), source='old/report.json')
    written = write_analysis(report.analysis, tmp_path, found)
    page = written.html.read_text()
    own = page.split('<h2>Against the baseline</h2>')[1].split('</section>')[0]
    assert 'No regression shown' in own
    assert 'street-student against the baseline' in own
    again = json.loads(written.json.read_text())['baseline']
    assert (again['source'], again['failed']) == ('old/report.json', False)
    assert {c['metric'] for c in again['changes']} >= {'p50', 'lost', 'miou', 'road'}


def test_report_of_one_arm_that_answered_once(make_run, tmp_path):
    run = make_run(frames=1, pictures=1)
    files = write_report(replace(run, arms=run.arms[:1]), tmp_path)
    parse(files.html.read_text())
    data = json.loads(files.json.read_text())
    assert list(data['arms']) == ['a']
    assert data['arms']['a']['statistics']['latency']['n'] == 1
    assert data['comparisons'] == []


def test_several_arms_have_a_line_each(make_run, tmp_path):
    run = make_run(frames=20, pictures=1)
    third = replace(run.arms[1], name='c', bundle='street-student-2')
    more = tuple(replace(r, arm='c') for r in run.rows if r.arm == 'b')
    pictures = tuple(replace(p, masks={**p.masks, 'c': p.masks['b']}) for p in run.pictures)
    run = replace(run, arms=(*run.arms, third), rows=run.rows + more, pictures=pictures)
    page = write_report(run, tmp_path).html.read_text()
    parse(page)
    assert page.split('</h1>')[0].count('class="one-of-several"') == 2
    cards = page.split('</header>')[1].split('<section')[0]
    assert cards.count('97.5\u00a0%: ') == 4  # both hold together with 95 %
    assert page.count('<h2>Verdict</h2>') == 1


def test_exchanges_are_marked_over_the_frames_they_take():
    assert plots._spans([7, 3, 4, 5, 9, 3]) == [(3, 5), (7, 7), (9, 9)]
    assert plots._spans([]) == []


def test_latencies_near_an_exchange_are_left_out_of_the_intervals(make_run):
    run = make_run(frames=40, pictures=0)
    slow = tuple(replace(r, swapping=True, received_ns=r.received_ns + 10**9)
                 if r.index % 10 == 0 else r for r in run.rows)
    found = analyse(replace(run, rows=slow))
    assert found.intervals['b'].p95.estimate < 30
    assert plots.timeline(found)
