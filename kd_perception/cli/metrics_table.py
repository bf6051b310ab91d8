"""A table of segmentation metrics on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from rich.console import Console
from rich.table import Table


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


def percent(value: float | None) -> str:
    """Return a share as per cent with one decimal; ``-`` where it is undefined."""
    return '-' if value is None or math.isnan(value) else f'{100 * value:.1f}'
