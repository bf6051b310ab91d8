"""
How the figures of all reports look: quiet axes, one set of colours, PNG bytes.

Figures are made without pyplot, so no display, no global state, no thread trouble.
"""

from __future__ import annotations

from collections.abc import Sequence
import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
import numpy as np

# Told apart by colour-blind readers and in grey print (their lightness differs).
COLORS = ('#2f6db3', '#e08a2e', '#4d9a6a', '#8a5fb0', '#b0413e')
INK = '#1d2733'
GRID = '#dfe4ea'
_DPI = 150


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of that many inches with one pair of quiet axes."""
    drawing = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    quiet(axes)
    return drawing, axes


def stacked(width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of axes one above the other that share their x axis; sizes in inches."""
    drawing = Figure(figsize=(width, sum(heights)), layout='constrained')
    FigureCanvasAgg(drawing)
    rows = drawing.subplots(len(heights), 1, sharex=True, squeeze=False,
                            height_ratios=list(heights))
    for axes in rows[:, 0]:
        quiet(axes)
    return drawing, list(rows[:, 0])


def quiet(axes: Axes) -> None:
    """Take from axes what is not data."""
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.spines['bottom'].set_color(GRID)
    axes.tick_params(which='both', colors=INK, length=0, labelsize=9)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)


def legend_above(axes: Axes, x: float = 0.5) -> None:
    """Name the lines above the axes, in as many columns as the names leave room for."""
    names = axes.get_legend_handles_labels()[1]
    longest = max(map(len, names), default=0)
    columns = 3 if longest <= 18 else 2 if longest <= 34 else 1
    axes.legend(frameon=False, fontsize=9, ncols=columns, loc='lower center',
                bbox_to_anchor=(x, 1.0))


def png(drawing: Figure) -> bytes:
    """Return the picture."""
    _read_names_as_they_are(drawing)
    stream = io.BytesIO()
    drawing.savefig(stream, format='png', dpi=_DPI, facecolor='white')
    return stream.getvalue()


def _read_names_as_they_are(drawing: Figure) -> None:
    """Let no dollar in the name of a model or a class begin a formula; only numbers hold some."""
    numbers: set[Text] = set()
    for axes in drawing.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if not isinstance(axis.get_major_formatter(), FuncFormatter):  # names were given
                numbers.update(axis.get_ticklabels())
    for text in set(drawing.findobj(Text)) - numbers:
        text.set_parse_math(False)  # type: ignore[attr-defined]


def class_bars(names: Sequence[str], share: np.ndarray,
               series: Sequence[tuple[str, str, np.ndarray]]) -> bytes:
    """
    Return IoU by class.

    :param names: classes, from top to bottom.
    :param share: float ``[K]``, their parts of the labelled pixels.
    :param series: label, colour and IoU ``[K]`` (0 … 1, NaN: none) of every model.
    """
    drawing, axes = figure(6.4, 0.9 + 0.30 * len(names) * max(1.0, 0.6 * len(series)))
    height = 0.8 / len(series)
    for k, (label, color, iou) in enumerate(series):
        values = 100 * np.nan_to_num(iou)
        y = np.arange(len(names)) - 0.4 + height * (k + 0.5)
        axes.barh(y, values, height=height * 0.92, color=color, label=label)
        for position, value in zip(y, values, strict=True):
            axes.annotate(f'{value:.0f}', (value, position), xytext=(3, 0), va='center',
                          textcoords='offset points', fontsize=7.5, color=INK)
    axes.set_yticks(range(len(names)),
                    [f'{name}  ({part:.1%})' for name, part in zip(names, share, strict=True)])
    axes.invert_yaxis()
    axes.grid(axis='y', visible=False)
    axes.set_xlim(0, 105)
    axes.set_xlabel('IoU, points of 100 (in brackets: share of the labelled pixels)')
    axes.legend(frameon=False, fontsize=9, ncols=len(series), loc='lower center',
                bbox_to_anchor=(0.4, 1.0))
    return png(drawing)
