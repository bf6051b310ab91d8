"""A table of segmentation metrics on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kd_perception.evaluation.metrics.objects import distance_names


def print_metrics(metrics: Mapping[str, Any], title: str) -> None:
    """
    Print per-class figures and the means.

    :param metrics: ``ConfusionMatrix.to_dict()``.
    """
    table = Table(title=title, title_justify='left')
    table.add_column('class')
    for column in ('share %', 'IoU', 'precision', 'recall', 'F1'):
        table.add_column(column, justify='right')
    for name, values in metrics['classes'].items():
        table.add_row(name, *(percent(values[k]) for k in
                              ('share', 'iou', 'precision', 'recall', 'f1')))
    table.add_section()
    table.add_row('mean', '', percent(metrics['mean_iou']), '', '', '')
    Console().print(table)
    print(f'mIoU {percent(metrics["mean_iou"])} over all classes, '
          f'{percent(metrics["mean_iou_over_0.1_percent"])} over those of >= 0.1 % of pixels; '
          f'pixel accuracy {percent(metrics["pixel_accuracy"])}')
    counted = metrics.get('mean_iou_with_void')
    if counted is not None and percent(counted) != percent(metrics['mean_iou']):
        print(f'mIoU {percent(counted)} when predictions on void pixels count as wrong, as some '
              'published figures do')


def print_details(metrics: Mapping[str, Any]) -> None:
    """
    Print what was measured beside the matrix.

    :param metrics: ``EvaluationResult.to_dict()``.
    """
    if boundary := metrics.get('boundary'):
        print(f'boundary F-score {_share(boundary["score"])}')
    if flicker := metrics.get('flicker'):
        print(f'flicker {_share(flicker["share"])} of the pixels ({flicker["method"]}, '
              f'{flicker["n"]} pairs of frames)')
    if calibration := metrics.get('calibration'):
        print(f'calibration error {percent(calibration["ece"])} (mean confidence '
              f'{percent(calibration["confidence"])}, right {percent(calibration["accuracy"])})')
    if objects := metrics.get('objects'):
        for axis in ('distance', 'visible'):
            Console().print(_objects_table(objects['cells'], axis))


def _objects_table(cells: Sequence[Mapping[str, Any]], axis: str) -> Table:
    """Return a table of kinds by ``distance`` or ``visible`` share."""
    other = 'visible' if axis == 'distance' else 'distance'
    along = [c for c in cells if c[other] == 'all']
    columns = list(dict.fromkeys(c[axis] for c in along))
    if axis == 'distance':
        order = ('all', *distance_names())
        columns.sort(key=order.index)
    else:
        columns.sort()
        columns.remove('all')
    title = {'distance': 'objects found, % (number): at least half of their visible pixels are '
                         'right', 'visible': 'the same by the part of them that can be seen'}
    table = Table(title=title[axis], title_justify='left', box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column('')
    for column in columns:
        table.add_column(column, justify='right')
    for kind in dict.fromkeys(c['kind'] for c in along):
        own = {c[axis]: c for c in along if c['kind'] == kind}
        table.add_row(kind, *(f'{100 * own[c]["found"]["estimate"]:.0f} ({own[c]["n"]})'
                              if c in own else '-' for c in columns))
    return table


def _share(interval: Mapping[str, Any]) -> str:
    return (f'{percent(interval["estimate"])} ({percent(interval["low"])} … '
            f'{percent(interval["high"])})')


def percent(value: float | None) -> str:
    """Return a share as per cent with one decimal; ``-`` where it is undefined."""
    return '-' if value is None or math.isnan(value) else f'{100 * value:.1f}'
