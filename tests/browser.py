"""Pages as a parser and as a real browser read them: what its console says, and what they look like at several widths."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 100

PROBE = """<script>addEventListener("load", () => {
  const seen = element => element.getClientRects().length > 0;
  const found = {
    client_width: document.documentElement.clientWidth, scroll_width: document.documentElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    broken: [...document.images].filter(image => !image.naturalWidth).map(image => image.alt),
    blurred: [...document.images].filter(i => seen(i) && i.naturalWidth < i.clientWidth).map(i => i.alt),
    unnamed: [...document.querySelectorAll("img:not([alt]), img[alt=''], svg:not([aria-label]), svg[aria-label='']")].length,
    repeated: [...document.querySelectorAll("[id]")].map(e => e.id).filter((id, i, all) => all.indexOf(id) < i),
    unreachable: [...document.querySelectorAll(".scroll")].filter(b => b.tabIndex < 0).length,
    views: {},
  };
  const visible = () => [...document.querySelectorAll(".view")].filter(seen).map(view => view.className.split(" ")[1]);
  found.views.first = visible();
  found.focused = [...document.querySelectorAll("input")].filter(seen).map(input => {
    input.focus(); input.click(); found.views[input.value] = visible(); return document.activeElement === input; });
  parent.postMessage([NAME, found], "*");
});</script>"""


COLLECT = """const all = {};
addEventListener("message", e => { all[e.data[0]] = e.data[1]; document.title = JSON.stringify(all); });"""


VOID = {"meta", "link", "img", "input", "br", "path", "rect", "circle", "line", "use"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what refers to something else."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.references += [value for name in ("src", "href", "xlink:href") if (value := values.get(name))]
        self.ids |= {values["id"]} if values.get("id") else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if tag not in VOID:
            self.handle_starttag(tag, attrs)
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


class Visit(NamedTuple):
    """What came of opening pages."""

    console: list[str]  # what the browser complained of
    found: dict[str, dict[str, Any]]  # by page and width, what PROBE found


def visit(pages: Mapping[str, str], folder: Path, *, widths: Sequence[int], dark: bool) -> Visit:
    """Opens pages side by side, each at every width; skips the test where there is no browser.

    Args:
        pages: Name -> HTML.
        folder: For files.
        widths: Of the frames, in CSS pixels.
        dark: The colour scheme that the reader prefers.
    """
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser here (one of {', '.join(NAMES)}; Debian: apt install chromium)")
    frames = ""
    for name, text in pages.items():
        for width in widths:
            probe = PROBE.replace("NAME", json.dumps(f"{name} {width}"))
            (folder / f"{name}_{width}.html").write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
            frames += f'<iframe style="width:{width}px;height:900px" src="{name}_{width}.html"></iframe>'
    (folder / "all.html").write_text(f"<!doctype html><title></title><script>{COLLECT}</script>{frames}", encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={max(widths) + 100},1000", "--dump-dom", f"file://{(folder / 'all.html').resolve()}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr
    return Visit(
        [line for line in done.stderr.splitlines() if "CONSOLE" in line], json.loads(html.unescape(title[1]) or "{}")
    )
