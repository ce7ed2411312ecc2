"""The pieces of a self-contained page that opens offline: tables, cards, pictures; everything that is text is escaped."""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pldmlt_jax.data.preprocessing.image_headers import declared_size
from pldmlt_jax.io.files import atomic_write
from pldmlt_jax.reporting.overlays import LESION_COLOURS, PICTURE_SUFFIX

TEMPLATE = "page_template.html"

MIN_TEXT_LENGTH = 40
"""A cell of more characters is text, whose lines are broken."""

MARKED = ' class="marked"'


def write_page(target: Path, kicker: str, heading: str, sections: Sequence[tuple[str, str]]) -> Path:
    """Writes a page.

    Args:
        target: The file.
        kicker: What kind of page it is.
        heading: What it is of.
        sections: Title and HTML of each; those without HTML are left out.
    """
    shown = [(title, body) for title, body in sections if body]
    links = "".join(f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title, _ in shown)
    body = "".join(f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{text}</section>' for title, text in shown)
    parts = {"TITLE": escape(f"{heading} - {kicker}"), "KICKER": escape(kicker), "HEADING": escape(heading), "LINKS": links}
    page = resources.files("pldmlt_jax.reporting").joinpath(TEMPLATE).read_text(encoding="utf-8")
    for mark, text in {**parts, "BODY": body}.items():  # the body last: it may hold anything
        page = page.replace(f"<!--{mark}-->", text)
    with atomic_write(target) as file:
        file.write(page)
    return target


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def escape(text: Any) -> str:
    return html.escape(str(text))


def format_number(value: Any, digits: int = 4) -> str:
    """A value as the pages show it; what is undefined says so."""
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else escape(value)


def missing_stage_note(verb: str) -> str:
    return f'<p class="missing">Not there yet: <code>python main.py {escape(verb)}</code> makes it.</p>'


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, tall: bool = False, marked: Sequence[int] = ()) -> str:
    """A table that scrolls in its own box, never the page; the first cell of a row is its heading.

    Args:
        header: Of the columns.
        rows: Numbers, undefined ones (None) or text.
        tall: Whether it scrolls up and down as well.
        marked: Rows that are set apart.
    """
    rows = [list(row) for row in rows]
    kinds = ["", *(_kind([row[column] for row in rows]) for column in range(1, len(header)))]
    head = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, header, strict=True))
    body = ""
    for place, (first, *others) in enumerate(rows):
        cells = "".join(f"<td{kind}>{_shown(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        body += f'<tr{MARKED if place in marked else ""}><th scope="row">{_shown(first)}</th>{cells}</tr>'
    return (
        f'<div class="scroll{" tall" if tall else ""}" tabindex="0" role="region" aria-label="table: {escape(header[0])}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _kind(cells: Sequence[Any]) -> str:
    """The class of a column: numbers stand to the right, long text is broken."""
    filled = [cell for cell in cells if cell not in ("", None)]
    if filled and all(isinstance(cell, int | float) for cell in filled):
        return ' class="number"'
    return ' class="text"' if any(len(str(cell)) > MIN_TEXT_LENGTH for cell in filled) else ""


def _shown(value: Any) -> str:
    """A cell; what stands in backquotes is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", format_number(value))


def metric_card(title: str, value: Any, beside: str, baseline: float | None = None) -> str:
    """One figure in large type over a bar of its size, on which the baseline is a mark."""
    bar = ""
    if isinstance(value, float):
        at, mark = (100 * min(max(share, 0.0), 1.0) for share in (value, baseline or 0.0))
        tick = f'<u style="left:{mark:.1f}%"></u>' if baseline is not None else ""
        bar = f'<div class="bar" aria-hidden="true"><i style="width:{at:.1f}%"></i>{tick}</div>'
    shown = f"<span>{escape(title)}</span><b>{format_number(value, 3)}</b>{bar}<small>{escape(beside)}</small>"
    return f'<div class="card">{shown}</div>'


def charts(found: Iterable[str]) -> str:
    """Charts side by side, or a line where none has anything to show."""
    shown = "".join(found)
    return f'<div class="charts">{shown}</div>' if shown else '<p class="missing">Nothing was logged yet.</p>'


def picture(path: Path, text: str) -> str:
    """A JPEG of the run inside the page; nothing where there is none.

    Args:
        path: Without the suffix.
        text: What it shows, for those who cannot see it.
    """
    path = path.with_name(path.name + PICTURE_SUFFIX)
    if not path.is_file():
        return ""
    content = path.read_bytes()
    height, width = declared_size(content)
    source = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    return f'<img width="{width}" height="{height}" alt="{escape(text)}" src="{source}">'


def legend(names: Iterable[str]) -> str:
    """What the colours of the lesions are."""
    entries = "".join(
        f'<li><i style="background:rgb{LESION_COLOURS[name]}"></i>{"any lesion" if name == "lesion" else escape(name)}</li>'
        for name in names
    )
    return f'<ul class="legend">{entries}</ul>'


def collapsible_json(title: str, values: Mapping[str, Any]) -> str:
    """JSON behind a line that opens it."""
    text = json.dumps(values, indent=2)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if values else ""
