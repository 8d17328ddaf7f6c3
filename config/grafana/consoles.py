"""Prometheus' console pages, made of the panels: Go templates that its own web server fills.

Verdicts and values are written by the server, so a page says something before, and without, any script; the graphs are
drawn in the browser by the console library of Prometheus.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from config.grafana.panels import LABEL, Check, Dashboard, Panel, Query, Unit

_STYLE = Path(__file__).with_name("console.css")
_SCRIPT = Path(__file__).with_name("console.js")
_LIMIT_COLOUR = "#b3261e"
_COLOURS = [
    "#1f77b4",
    "#2b9348",
    "#e07b00",
    "#7b4fb5",
    "#00838f",
    "#b5487b",
    "#6d7a1f",
    "#4a5568",
    "#a0522d",
    "#5c6bc0",
]

#: For each unit: what turns ``.Value`` into text in the template, and what follows it.
_SERVER: dict[Unit, tuple[str, str]] = {
    "per_second": ('printf "%.2f" .Value', "/s"),
    "seconds": ("humanizeDuration .Value", ""),
    "ratio": ("humanizePercentage .Value", ""),
    "bytes": ("humanize1024 .Value", "B"),
    "bytes_per_second": ("humanize1024 .Value", "B/s"),
    "bytes_per_day": ("humanize1024 .Value", "B/day"),
    "count": ('printf "%.4g" .Value', ""),
    "state": ("if eq .Value 1.0 }}up{{ else }}down{{ end", ""),
}
#: The same for the axis of a graph: a function of console.js.
_BROWSER: dict[Unit, str] = {
    "per_second": 'decimal("/s")',
    "seconds": 'decimal(" s")',
    "ratio": "percent",
    "bytes": 'binary("B")',
    "bytes_per_second": 'binary("B/s")',
    "bytes_per_day": 'binary("B/day")',
    "count": 'decimal("")',
    "state": 'decimal("")',
}


def render(dashboard: Dashboard, all_dashboards: Sequence[Dashboard]) -> str:
    """Return the page of a dashboard; the others are linked from it.

    :raises ValueError: when an expression holds a character that the template could not carry.
    """
    links = "".join(
        f'<a href="{{{{ pathPrefix }}}}/consoles/{other.uid}.html"{_here(other is dashboard)}>{_text(other.title)}</a>'
        for other in all_dashboards
    )
    rows = "".join(
        f'<h2 class="row-title">{_text(row.title)}</h2>\n<div class="panels">\n'
        + "".join(_panel(panel) for panel in row.panels)
        + "</div>\n"
        for row in dashboard.rows
    )
    graphs = "".join(_graph(panel) for panel in dashboard.panels if panel.kind == "graph")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{_text(dashboard.title)}</title>
{{{{ template "prom_console_head" }}}}
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header class="page"><h1>{_text(dashboard.title)}</h1><nav>{links}</nav></header>
<p class="page">{_text(dashboard.description)} <span class="moment">Values of
{{{{ with query "time()" }}}}{{{{ humanizeTimestamp (value (first .)) }}}}{{{{ end }}}};
the graphs' times are UTC too.</span></p>
{rows}{{{{ template "prom_graph_timecontrol" . }}}}
<script>
{_SCRIPT.read_text(encoding="utf-8")}{graphs}</script>
</body>
</html>
"""


def _panel(panel: Panel) -> str:
    graph = f'<div class="graph" id="graph-{panel.name}"></div>\n' if panel.kind == "graph" else ""
    limits = [Query(name="limit", legend=limit.legend, expr=limit.expr, unit=panel.unit) for limit in panel.limits]
    rows = "".join(_values(query, query.unit or panel.unit) for query in panel.queries)
    rows += "".join(_values(query, panel.unit, ' class="limit"') for query in limits)
    return (
        f'<section class="panel" id="panel-{panel.name}">\n'
        f"<header><h3>{_text(panel.title)}</h3>{_verdict(panel.check) if panel.check else ''}</header>\n"
        f"<p>{_text(panel.description)}</p>\n{graph}"
        f'<table class="values">\n{rows}</table>\n</section>\n'
    )


def _verdict(check: Check) -> str:
    return (
        f"{{{{ with query {_raw(check.expr)} }}}}{{{{ if eq (value (first .)) 1.0 }}}}"
        f'<span class="verdict good">{_text(check.good)}</span>{{{{ else }}}}'
        f'<span class="verdict bad">{_text(check.bad)}</span>{{{{ end }}}}{{{{ else }}}}'
        '<span class="verdict none">no data</span>{{ end }}'
    )


def _values(query: Query, unit: Unit, attributes: str = "") -> str:
    """Return a row of the table for each series, or one that says that there is none."""
    legend = LABEL.sub(r"{{ .Labels.\1 }}", _text(query.legend))
    nothing = _text(LABEL.sub(r"\1", query.legend))
    source = f"query {_raw(query.expr)}"
    for label in reversed(LABEL.findall(query.legend)):
        source = f'sortByLabel "{label}" ({source})'
    shown, suffix = _SERVER[unit]
    if unit == "state":
        cell = (
            '<span class="verdict {{ if eq .Value 1.0 }}good{{ else }}bad{{ end }}">'
            f"{{{{ {shown} }}}}</span>"
        )
    else:
        cell = f"{{{{ {shown} }}}}{suffix}"
    return (
        f"{{{{ range {source} }}}}"
        f'<tr{attributes}><td>{legend}</td><td class="value">{cell}</td></tr>\n'
        f"{{{{ else }}}}<tr{attributes}><td>{nothing}</td>"
        '<td class="value">no data</td></tr>\n{{ end }}'
    )


def _graph(panel: Panel) -> str:
    """Return the script that draws the queries that share the panel's unit; others would need an axis of their own."""
    queries = [query for query in panel.queries if query.unit in (None, panel.unit)]
    # Limits stand first: each is one series, so that they alone take the colour of limits.
    expressions = [limit.expr for limit in panel.limits] + [query.expr for query in queries]
    names = [_name(limit.legend) for limit in panel.limits] + [_name(query.legend) for query in queries]
    colours = [_LIMIT_COLOUR] * len(panel.limits) + _COLOURS
    minimum = "" if panel.min is None else f"  min: {panel.min:g},\n"
    return (
        "new PromConsole.Graph({\n"
        f'  node: document.getElementById("graph-{panel.name}"),\n'
        f"  expr: {json.dumps(expressions)},\n"
        f"  name: [{', '.join(names)}],\n"
        f"  colorScheme: {json.dumps(colours)},\n"
        f"{minimum}"
        f'  height: 170,\n  xTitle: "",\n  yAxisFormatter: {_BROWSER[panel.unit]},\n'
        f"  yHoverFormatter: {_BROWSER[panel.unit]}\n"
        "});\n"
    )


def _name(legend: str) -> str:
    """Return the function that names a series; the library's own templates lose what follows the last label."""
    parts = LABEL.split(legend)
    terms = [json.dumps(part) if index % 2 == 0 else f"m.{part}" for index, part in enumerate(parts)]
    return f"m => {' + '.join(term for term in terms if term != json.dumps(''))}"


def _raw(expr: str) -> str:
    if "`" in expr or "{{" in expr or "}}" in expr:
        raise ValueError(f"expression: found a backquote or doubled braces in {expr}; expected none")
    return f"`{expr}`"


def _text(text: str) -> str:
    return html.escape(text)


def _here(here: bool) -> str:
    return ' class="here"' if here else ""
