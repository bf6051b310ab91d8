"""
The parts that the pages of all reports are made of; one file each that needs nothing else.

Styles, figures and pictures are inside of the page. Every word that comes from outside (bundle
names, host, notes) is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from kd_perception import __version__
from kd_perception.classes import ClassSet
from kd_perception.evaluation.pictures import Panel
from kd_perception.evaluation.tables import Table

_TEMPLATES = Path(__file__).parent / 'templates'


def page(*, title: str, kicker: str, headline: str, cards: Sequence[str],
         parts: Sequence[str]) -> str:
    """
    Return the page.

    :param kicker: the small line above the headline.
    :param cards: made by ``card``.
    :param parts: sections, made by ``section`` and ``cautions``.
    """
    return Template((_TEMPLATES / 'report.html').read_text(encoding='utf-8')).substitute(
        version=escape(__version__), title=escape(title), kicker=escape(kicker),
        headline=escape(headline),
        style=(_TEMPLATES / 'report.css').read_text(encoding='utf-8'),
        cards='\n'.join(cards), sections='\n'.join(filter(None, parts)))


def card(value: str, name: str, note: str, kind: str = 'plain') -> str:
    """Return a figure in large type; ``kind``: ``good``, ``bad`` or ``plain``."""
    return (f'<div class="card {kind}"><div class="value">{escape(value)}</div>'
            f'<div class="name">{escape(name)}</div><div class="note">{escape(note)}</div></div>')


def cautions(sentences: Sequence[str]) -> str:
    """Return what limits the report, or nothing."""
    if not sentences:
        return ''
    items = '\n'.join(f'<li>{escape(s)}</li>' for s in sentences)
    return f'<section class="cautions"><h2>Read with care</h2>\n<ul>\n{items}\n</ul></section>'


def section(title: str, parts: Sequence[str]) -> str:
    """Return a section of parts that are HTML; empty ones are left out."""
    return (f'<section>\n<h2>{escape(title)}</h2>\n' + '\n'.join(filter(None, parts))
            + '</section>')


def heading(text: str) -> str:
    """Return the heading of a part of a section."""
    return f'<h3>{escape(text)}</h3>'


def table(content: Table, colors: Mapping[str, str]) -> str:
    """Return a table; columns whose header is a key of ``colors`` bear its dot."""
    head = ''.join(f'<th>{_dot(colors, cell)}{escape(cell)}</th>' for cell in content.header)
    body = '\n'.join(
        f'<tr{" class=strong" if i in content.strong else ""}>'
        + ''.join(f'<td>{escape(cell)}</td>' for cell in row) + '</tr>'
        for i, row in enumerate(content.rows))
    return (f'{heading(content.title)}<div class="scroll"><table><thead><tr>{head}</tr>'
            f'</thead><tbody>\n{body}\n</tbody></table></div>')


def words(values: Mapping[str, str]) -> str:
    """Return keys with what is said of them."""
    rows = '\n'.join(f'<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>'
                     for k, v in values.items())
    return f'<div class="scroll"><table class="words"><tbody>\n{rows}\n</tbody></table></div>'


def paragraphs(sentences: Sequence[str]) -> str:
    """Return one paragraph each."""
    return '\n'.join(f'<p>{escape(s)}</p>' for s in sentences)


def small(text: str) -> str:
    """Return a paragraph in small type."""
    return f'<p class="small">{escape(text)}</p>'


def plot(png: bytes | None, caption: str) -> str:
    """Return a figure with its caption, or nothing."""
    return '' if png is None else _figure(Panel(caption, 'image/png', png))


def legend(classes: ClassSet) -> str:
    """Return which colour stands for which class."""
    entries = ''.join(
        f'<span><span class="dot" style="background:rgb({r},{g},{b})"></span>{escape(name)}</span>'
        for name, (r, g, b) in zip(classes.names, classes.colors, strict=True))
    return f'<p class="legend">{entries}</p>'


def panels(title: str, pictures: Sequence[Panel], columns: int) -> str:
    """Return pictures in rows of so many, one below the other where the page is narrow."""
    return (f'<div class="pictures">{heading(title)}'
            f'<div class="panels" style="--columns:{columns}">'
            f'{"".join(_figure(p) for p in pictures)}</div></div>')


def _figure(panel: Panel) -> str:
    data = f'data:{panel.mime};base64,{base64.b64encode(panel.data).decode()}'
    return (f'<figure><img alt="{escape(panel.caption)}" src="{data}">'
            f'<figcaption>{escape(panel.caption)}</figcaption></figure>')


def _dot(colors: Mapping[str, str], cell: str) -> str:
    if cell not in colors:
        return ''
    return f'<span class="dot" style="background:{colors[cell]}"></span>'
