"""Checklists with figures: the five metrics beside their thresholds, the five panels of the daily checklist.

What is asked stands in config/prometheus/alerts.yml and config/grafana/panels.yml and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .alerting import expanded
from .card import aligned
from .errors import Refused
from .monitoring import FIVE_METRICS, Get, query
from .probes import http_get, read_metrics

_COMPARISONS = ("<=", ">=", "==", "!=", "<", ">")


@dataclass(frozen=True)
class Item:
    """One line of a checklist.

    :param name: the metric or the panel.
    :param figure: what was read, with its unit.
    :param limit: what is allowed; empty where there is none.
    :param verdict: one or two words.
    """

    name: str
    figure: str
    limit: str
    verdict: str
    good: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def table(items: Sequence[Item]) -> list[str]:
    """Render one line an item: verdict first, so that the eye finds what is bad."""
    rows = [("", "what", "seen", "allowed", "verdict")]
    rows += [("ok" if item.good else "BAD", item.name, item.figure, item.limit, item.verdict) for item in items]
    return aligned(rows)


def split_comparison(expression: str) -> tuple[str, str, str]:
    """Split an alert's expression at its outermost comparison into value, comparison and limit.

    :raises Refused: there is none.
    """
    depth = 0
    for position, character in enumerate(expression):
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(character, 0)
        sign = next((sign for sign in _COMPARISONS if expression.startswith(sign, position)), None)
        if depth == 0 and sign is not None:
            return expression[:position].strip(), sign, expression[position + len(sign) :].strip()
    raise Refused("alert expression", repr(expression), "a comparison outside of all parentheses")


def _first(prometheus: str, expression: str, timeout: float, get: Get) -> float | None:
    """Return the largest value of an expression's series, None where there is none."""
    values = [float(entry["value"][1]) for entry in query(prometheus, expression, timeout, get)]
    return max(values) if values else None


def five_metrics(
    alerts: Sequence[Mapping[str, Any]], prometheus: str, timeout: float, get: Get = http_get
) -> list[Item]:
    """Read the five metrics of the runbook beside the thresholds of their alerts.

    :param alerts: rules with alert or record, and expr, thresholds filled in.
    :param timeout: seconds for each question.
    :raises ProbeError: Prometheus does not answer.
    """
    items = []
    records = {rule["record"]: rule["expr"] for rule in alerts if "record" in rule}
    reading = [(rule, expanded(rule["expr"], records)) for rule in alerts if "alert" in rule]
    for metric in FIVE_METRICS:
        rule = next(rule for rule, expr in reading if metric in expr and not expr.startswith("absent"))
        value_of, sign, limit_of = split_comparison(rule["expr"])
        value = _first(prometheus, value_of, timeout, get)
        limit = _first(prometheus, f"vector({limit_of})", timeout, get)
        if value is None or limit is None:
            items.append(Item(metric, "absent", f"not {sign} {limit_of}", "absent", False))
            continue
        over = {"<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit}[sign]
        items.append(
            Item(
                metric, f"{value:.4g}", f"not {sign} {limit:.4g}", f"as {rule['alert']}" if over else "within", not over
            )
        )
    return items


def five_metrics_directly(
    endpoints: Mapping[str, str],
    brokers: Sequence[str],
    timeout: float,
    get: Get = http_get,
    special: Mapping[str, Get] | None = None,
) -> list[Item]:
    """Read the five metrics where they arise, for a time without Prometheus: present or absent, no rates.

    :param endpoints: metrics page by service: pipeline-exporter, spark-streaming, minio-bucket and each broker.
    :param brokers: the names of the brokers among them; what they count is added up.
    :param special: how the page of a service is read that wants to be asked otherwise.
    """
    sources = (brokers, ["pipeline-exporter"], ["spark-streaming"], brokers, ["minio-bucket"])
    items = []
    for metric, services in zip(FIVE_METRICS, sources, strict=True):
        values: list[float] = []
        silent = ""
        for service in services:
            status, body = (special or {}).get(service, get)(endpoints[service], timeout)
            samples = read_metrics(body) if status == 200 else {}
            values += [value for name, value in samples.items() if name.split("{")[0] == metric]
            silent = silent or ("" if status == 200 else body or f"HTTP {status}")
        figure = f"{sum(values):.4g}" if values else silent or "absent"
        items.append(Item(metric, figure, "present", "present" if values else "absent", bool(values)))
    return items


_UNITS = {
    "per_second": "/s",
    "seconds": " s",
    "ratio": "",
    "bytes": " B",
    "bytes_per_day": " B/day",
    "bytes_per_second": " B/s",
    "count": "",
    "state": "",
}


def daily_panels(
    panels: Sequence[Mapping[str, Any]], prometheus: str, timeout: float, get: Get = http_get
) -> list[Item]:
    """Read the panels of the daily checklist: each figure, each limit, the verdict of its check.

    :param panels: as in config/grafana/panels.yml: title, unit, queries, limits and check.
    :raises ProbeError: Prometheus does not answer.
    """
    items = []
    for panel in panels:
        figures = []
        for asked in panel["queries"]:
            value = _first(prometheus, asked["expr"], timeout, get)
            unit = _UNITS[asked.get("unit", panel["unit"])]
            name = asked["name"]
            figures.append(f"{name} {value:.4g}{unit}" if value is not None else f"{name} absent")
        limits = []
        for limit in panel.get("limits", []):
            value = _first(prometheus, f'runbook_threshold{{name="{limit["name"]}"}}', timeout, get)
            limits.append(f"{value:.4g}{_UNITS[panel['unit']]}" if value is not None else "absent")
        answer = _first(prometheus, panel["check"]["expr"], timeout, get)
        good = answer == 1.0
        verdict = "no answer" if answer is None else str(panel["check"]["good" if good else "bad"])
        items.append(Item(panel["title"], ", ".join(figures), ", ".join(limits), verdict, good))
    return items
