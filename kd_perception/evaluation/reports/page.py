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
import re
from string import Template

from kd_perception import __version__
from kd_perception.classes import ClassSet
from kd_perception.evaluation.reports.pictures import Panel
from kd_perception.evaluation.reports.tables import Bar, Table

_TEMPLATES = Path(__file__).parent / 'templates'
_LONG = 30  # letters of a word


def page(*, title: str, kicker: str, headline: str | Sequence[str], cards: Sequence[str],
         parts: Sequence[str], lead: Sequence[str] = (), contents: bool = False) -> str:
    """
    Return the page.

    :param kicker: the small line above the headline.
    :param headline: several sentences stand below each other, smaller.
    :param cards: made by ``card``.
    :param parts: sections, made by ``section`` and ``cautions``.
    :param lead: sentences below the headline.
    :param contents: whether a line of links to the sections stands behind the cards.
    """
    sections = [p for p in parts if p]
    if contents:
        # Behind what limits the report, which nobody may overlook.
        first = next((i for i, p in enumerate(sections) if 'class="cautions"' not in p), 0)
        sections.insert(first, _contents(sections))
    return Template((_TEMPLATES / 'report.html').read_text(encoding='utf-8')).substitute(
        version=escape(__version__), title=escape(title), kicker=escape(kicker),
        headline=_headline([headline] if isinstance(headline, str) else headline),
        lead=paragraphs(lead),
        style=(_TEMPLATES / 'report.css').read_text(encoding='utf-8'),
        cards='\n'.join(cards), sections='\n'.join(filter(None, sections)))


def _headline(sentences: Sequence[str]) -> str:
    if len(sentences) == 1:
        return escape(sentences[0])
    return ''.join(f'<span class="one-of-several">{escape(s)}</span>' for s in sentences)


def card(value: str, name: str, note: str, kind: str = 'plain', drawing: str = '') -> str:
    """
    Return a figure in large type.

    :param kind: ``good``, ``bad`` or ``plain``.
    :param drawing: HTML below it, e.g. made by ``strip``.
    """
    return (f'<div class="card {kind}"><div class="value">{escape(value)}</div>'
            f'<div class="name">{escape(name)}</div><div class="note">{_text(note)}</div>'
            f'{drawing}</div>')


def cautions(sentences: Sequence[str]) -> str:
    """Return what limits the report, or nothing."""
    if not sentences:
        return ''
    items = '\n'.join(f'<li>{escape(s)}</li>' for s in sentences)
    return f'<section class="cautions"><h2>Read with care</h2>\n<ul>\n{items}\n</ul></section>'


def section(title: str, parts: Sequence[str]) -> str:
    """Return a section of parts that are HTML; empty ones are left out."""
    return (f'<section id="{_anchor(title)}">\n<h2>{escape(title)}</h2>\n'
            + '\n'.join(filter(None, parts)) + '</section>')


def _anchor(title: str) -> str:
    return re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')


def _contents(sections: Sequence[str]) -> str:
    """Return links to the sections."""
    links = ''.join(f'<a href="#{name}">{title}</a>' for name, title in re.findall(
        r'<section id="([a-z0-9-]+)">\n<h2>(.*?)</h2>', '\n'.join(sections)))
    return f'<nav aria-label="Contents">{links}</nav>'


def heading(text: str) -> str:
    """Return the heading of a part of a section."""
    return f'<h3>{escape(text)}</h3>'


def table(content: Table, colors: Mapping[str, str]) -> str:
    """
    Return a table; columns whose header is a key of ``colors`` bear its dot.

    It can be scrolled by keyboard where it is wider than the page.
    """
    head = ''.join(f'<th scope="col">{_named(colors, cell)}</th>' for cell in content.header)
    body = '\n'.join(
        f'<tr{" class=strong" if i in content.strong else ""}>'
        + _row(row, content.bars[i] if content.bars else ()) + '</tr>'
        for i, row in enumerate(content.rows))
    return (f'{heading(content.title)}<div class="scroll" tabindex="0" role="region" '
            f'aria-label="{escape(content.title)}"><table><thead><tr>{head}</tr>'
            f'</thead><tbody>\n{body}\n</tbody></table></div>')


def _row(cells: Sequence[str], bars: Sequence[Bar | None]) -> str:
    first, *rest = cells
    out = f'<th scope="row">{escape(first)}</th>'
    for i, cell in enumerate(rest, start=1):
        bar = bars[i] if i < len(bars) else None
        # A hash may break anywhere; a number may not.
        kind = ' class="long"' if any(len(w) > _LONG for w in cell.split()) else ''
        out += f'<td{kind}>{_text(cell)}{_bar(bar) if bar else ""}</td>'
    return out


def _bar(bar: Bar) -> str:
    """Return a bar below a number; one that may be negative grows from the middle."""
    start, end = max(0.0, min(1.0, bar.start)), max(0.0, min(1.0, bar.end))
    return (f'<span class="bar" aria-hidden="true"><span style="left:{100 * start:.1f}%;'
            f'width:{100 * (end - start):.1f}%;background:{bar.color}"></span></span>')


def words(values: Mapping[str, str]) -> str:
    """Return keys with what is said of them."""
    rows = '\n'.join(f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(str(v))}</td></tr>'
                     for k, v in values.items())
    return f'<div class="scroll"><table class="words"><tbody>\n{rows}\n</tbody></table></div>'


def paragraphs(sentences: Sequence[str]) -> str:
    """Return one paragraph each."""
    return '\n'.join(f'<p>{_text(s)}</p>' for s in sentences)


def small(text: str) -> str:
    """Return a paragraph in small type."""
    return f'<p class="small">{escape(text)}</p>'


def plot(png: bytes | None, caption: str) -> str:
    """Return a figure with its caption, or nothing."""
    if png is None:
        return ''
    # On a narrow page its words would be too small to read: there it is scrolled.
    return (f'<div class="plot" tabindex="0" role="region" aria-label="{escape(caption)}">'
            f'{_figure(Panel(caption, "image/png", png))}</div>')


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


def _named(colors: Mapping[str, str], cell: str) -> str:
    """Return a header; its dot stays with the first word."""
    first, *rest = (escape(word).replace('_', '_<wbr>') for word in cell.split(' '))
    if cell in colors:
        start, *ends = first.split('<wbr>')
        dot = f'<span class="dot" style="background:{colors[cell]}"></span>'
        first = '<wbr>'.join([f'<span class="together">{dot}{start}</span>', *ends])
    return ' '.join([first, *rest])


def _text(text: str) -> str:
    """Return escaped text in which intervals and percentages do not break."""
    return escape(text).replace(' … ', '\u00a0…\u00a0').replace(' %', '\u00a0%')
