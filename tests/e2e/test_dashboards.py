"""Every query of every panel has an answer on the live Prometheus, and the pages show it in a real browser."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from config.grafana import panels

from . import browser
from .conftest import ROOT, Lab

EVIDENCE = ROOT / ".cache" / "evidence" / "pipeline-overview.png"
DASHBOARDS = panels.load()
OVERVIEW = DASHBOARDS[0]
CHECKLIST = [panel.name for panel in OVERVIEW.rows[0].panels]
DEADLINE_SECONDS = 90
#: A graph of the last five minutes: what a lab has that was just brought up.
WINDOW = "#pctc" + urllib.parse.quote(json.dumps({"duration": 300, "endTime": 0}))


@dataclass
class Shown:
    """What a page shows of one panel: curves with their points, values of its table, its verdict, all its text."""

    curves: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    verdict: str = ""
    text: str = ""

    @property
    def drawn(self) -> list[str]:
        """The curves that lead from one point to another."""
        return [curve for curve in self.curves if "L" in curve and "NaN" not in curve]


class Page(HTMLParser):
    """The panels of a page by their name, read from the DOM that the browser made."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.panels: dict[str, Shown] = {}
        self._panel: Shown | None = None
        self._into: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        classes = (attributes.get("class") or "").split()
        if tag == "section" and "panel" in classes:
            self._panel = self.panels.setdefault(str(attributes["id"]).removeprefix("panel-"), Shown())
        if self._panel is None:
            return
        if tag == "path" and "path" in classes:
            self._panel.curves.append(attributes.get("d") or "")
        if tag == "td":
            self._into = "value" if "value" in classes else None
            if self._into:
                self._panel.values.append("")
        if tag == "span" and "verdict" in classes and self._into is None:
            self._into = "verdict"

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._panel = None
        if (tag, self._into) in (("td", "value"), ("span", "verdict")):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._panel is None:
            return
        self._panel.text += data
        if self._into == "value":
            self._panel.values[-1] += data
        elif self._into == "verdict":
            self._panel.verdict += data


@pytest.fixture(scope="module")
def prometheus(lab: Lab) -> str:
    """Return the address of the lab's Prometheus."""
    endpoints = json.loads((lab.root / "endpoints.json").read_text())
    parts = urllib.parse.urlsplit(endpoints["metrics"]["prometheus"])
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture(scope="module")
def chromium(request: pytest.FixtureRequest) -> Path:
    """Return a browser; where one is installed, the installation's progress is shown."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            os.write(1, line.encode())

    return browser.ensure(show)


def get(url: str) -> tuple[int, str]:
    """Return status and body, whatever the status is."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  the lab's own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answer(prometheus: str, expr: str) -> tuple[list[Any], str]:
    """Return the series of an instant query, and what was wrong with it."""
    status, body = get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expr})}")
    if status != 200:
        return [], f"HTTP {status}: {body[:300]}"
    series: list[Any] = json.loads(body)["data"]["result"]
    return series, "" if series else "no series"


def test_every_query_of_every_panel_has_an_answer(prometheus: str) -> None:
    missing = {
        f"{dashboard.uid}/{panel.name}/{query.name}": query.expr
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.all_queries
    }
    wrong: dict[str, str] = {}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while missing:
        wrong = {name: text for name, expr in missing.items() if (text := answer(prometheus, expr)[1])}
        missing = {name: missing[name] for name in wrong}
        if time.monotonic() > deadline:
            break
        if missing:
            time.sleep(2)
    assert not missing, "\n".join(f"{name}: {wrong[name]}: {expr}" for name, expr in missing.items())


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_console_page_is_filled_by_the_server(prometheus: str, dashboard: panels.Dashboard) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        status, body = get(f"{prometheus}/consoles/{dashboard.uid}.html")
        assert status == 200, body[:2000]
        assert "<no value>" not in body
        shown = Page(body).panels
        assert list(shown) == [panel.name for panel in dashboard.panels]
        empty = {name: panel.values for name, panel in shown.items() if not panel.values or unreadable(panel)}
        if not empty or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert not empty, empty


def unreadable(panel: Shown) -> list[str]:
    """Return the values that are neither a number nor a state."""
    return [value for value in panel.values if not re.search(r"\d|^\s*(up|down)\s*$", value)]


def test_overview_draws_the_five_panels_of_the_checklist(prometheus: str, chromium: Path) -> None:
    url = f"{prometheus}/consoles/{OVERVIEW.uid}.html{WINDOW}"
    assert len(CHECKLIST) == 5
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        shown = Page(browser.dom(chromium, url)).panels
        faults = {name: text for name in CHECKLIST if (text := fault(shown.get(name, Shown())))}
        if not faults or time.monotonic() > deadline:
            break
        time.sleep(2)
    # The picture is kept whatever it shows: of a failure it is the evidence.
    browser.screenshot(chromium, url, EVIDENCE)
    assert not faults, faults
    assert EVIDENCE.stat().st_size > 20_000


def fault(panel: Shown) -> str:
    """Say what a panel lacks; nothing when it shows a graph, values and a verdict."""
    if not panel.drawn:
        return f"no curve drawn; its text: {' '.join(panel.text.split())}"
    if not panel.values or unreadable(panel):
        return f"values without a number: {panel.values}"
    if panel.verdict in ("", "no data"):
        return f"no verdict: {panel.verdict!r}"
    return ""
