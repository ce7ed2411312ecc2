"""Building blocks of a self-contained HTML page that opens offline: tables, cards and images. All text is escaped."""

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
"""A column with a longer cell is text, whose lines may wrap."""


def write_page(target: Path, kicker: str, heading: str, sections: Sequence[tuple[str, str]]) -> Path:
    """Writes a page and returns its path.

    Args:
        target: File to write.
        kicker: Kind of page, shown above the heading.
        heading: What the page is about.
        sections: Title and HTML of each section; those with empty HTML are left out.
    """
    shown = [(title, body) for title, body in sections if body]
    links = "".join(f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title, _ in shown)
    body = "".join(f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{text}</section>' for title, text in shown)
    parts = {"TITLE": escape(f"{heading} - {kicker}"), "KICKER": escape(kicker), "HEADING": escape(heading), "LINKS": links}
    page = resources.files("pldmlt_jax.reporting").joinpath(TEMPLATE).read_text(encoding="utf-8")
    for name, text in {**parts, "BODY": body}.items():  # the body last, since it may contain anything
        page = page.replace(f"<!--{name}-->", text)
    with atomic_write(target) as file:
        file.write(page)
    return target


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def escape(text: Any) -> str:
    """Escapes text for HTML."""
    return html.escape(str(text))


def format_number(value: Any, digits: int = 4) -> str:
    """Formats a value as the pages show it: fixed digits, thousands separators, "undefined" for None; text is escaped."""
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else escape(value)


def missing_stage_note(verb: str) -> str:
    """Returns a line that names the command to run for a section without data."""
    return f'<p class="missing">Not available yet. Run <code>python main.py {escape(verb)}</code>.</p>'


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, tall: bool = False, highlighted: Sequence[int] = ()
) -> str:
    """Renders a table that scrolls inside its own box; the first cell of each row is its heading.

    Args:
        header: Titles of the columns.
        rows: Numbers, None (undefined) or text, in which backquotes mark code.
        tall: Whether the table also scrolls vertically.
        highlighted: Indices of the rows to set apart.
    """
    rows = [list(row) for row in rows]
    kinds = ["", *(_column_class([row[column] for row in rows]) for column in range(1, len(header)))]
    head = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, header, strict=True))
    body = ""
    for index, (first, *others) in enumerate(rows):
        cells = "".join(f"<td{kind}>{_render_cell(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        marked = ' class="marked"' if index in highlighted else ""
        body += f'<tr{marked}><th scope="row">{_render_cell(first)}</th>{cells}</tr>'
    return (
        f'<div class="scroll{" tall" if tall else ""}" tabindex="0" role="region" aria-label="table: {escape(header[0])}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _column_class(cells: Sequence[Any]) -> str:
    """CSS class of a column: numbers are right-aligned, long text wraps."""
    filled = [cell for cell in cells if cell not in ("", None)]
    if filled and all(isinstance(cell, int | float) for cell in filled):
        return ' class="number"'
    return ' class="text"' if any(len(str(cell)) > MIN_TEXT_LENGTH for cell in filled) else ""


def _render_cell(value: Any) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", format_number(value))


def metric_card(title: str, value: Any, note: str, baseline: float | None = None) -> str:
    """Renders a metric in large type over a bar of its value, with the baseline as a mark on the bar.

    Args:
        title: Name of the metric.
        value: Its value; the bar is drawn for floats only.
        note: Small print below, usually the baseline in words.
        baseline: Position of the mark, 0 to 1; None: no mark.
    """
    bar = ""
    if isinstance(value, float):
        width, mark = (100 * min(max(share, 0.0), 1.0) for share in (value, baseline or 0.0))
        tick = f'<u style="left:{mark:.1f}%"></u>' if baseline is not None else ""
        bar = f'<div class="bar" aria-hidden="true"><i style="width:{width:.1f}%"></i>{tick}</div>'
    content = f"<span>{escape(title)}</span><b>{format_number(value, 3)}</b>{bar}<small>{escape(note)}</small>"
    return f'<div class="card">{content}</div>'


def chart_grid(charts: Iterable[str]) -> str:
    """Places charts side by side; returns a note if all of them are empty."""
    shown = "".join(charts)
    return f'<div class="charts">{shown}</div>' if shown else '<p class="missing">Nothing was logged yet.</p>'


def embed_picture(path: Path, alt: str) -> str:
    """Embeds a JPEG file in the page; returns "" if there is no such file.

    Args:
        path: Path without the suffix.
        alt: Description for readers who cannot see it.
    """
    path = path.with_name(path.name + PICTURE_SUFFIX)
    if not path.is_file():
        return ""
    content = path.read_bytes()
    height, width = declared_size(content)
    source = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    return f'<img width="{width}" height="{height}" alt="{escape(alt)}" src="{source}">'


def colour_legend(names: Iterable[str]) -> str:
    """Lists lesions with their colours; names are keys of LESION_COLOURS."""
    entries = "".join(
        f'<li><i style="background:rgb{LESION_COLOURS[name]}"></i>{"any lesion" if name == "lesion" else escape(name)}</li>'
        for name in names
    )
    return f'<ul class="legend">{entries}</ul>'


def collapsible_json(title: str, values: Mapping[str, Any]) -> str:
    """Renders values as JSON that opens on a click; returns "" if there are none."""
    text = json.dumps(values, indent=2)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if values else ""
