"""The panels as they stand in panels.yml, checked and typed; nothing here knows Grafana or Prometheus consoles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

#: What a value is measured in; each writer of panels has its own way to show one.
Unit = Literal["per_second", "seconds", "ratio", "bytes", "bytes_per_second", "bytes_per_day", "count", "state"]

FILE = Path(__file__).with_name("panels.yml")
LABEL = re.compile(r"\[\[(\w+)\]\]")
_NAME = r"^[a-z][a-z0-9-]*$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Query(_Part):
    """One expression; ``legend`` names labels of its series as ``[[label]]``."""

    name: str = Field(pattern=_NAME)
    legend: str = Field(min_length=1)
    expr: str = Field(min_length=1)
    unit: Unit | None = None


class Limit(_Part):
    """A threshold of the inventory; Prometheus records it as ``runbook_threshold{name=...}``."""

    name: str = Field(pattern=r"^[a-z][a-z_]*$")
    legend: str = Field(min_length=1)

    @property
    def expr(self) -> str:
        """The expression that reads its value."""
        return f'runbook_threshold{{name="{self.name}"}}'


class Check(_Part):
    """The panel's verdict: ``expr`` answers with one series, 1 when all is well."""

    expr: str = Field(min_length=1)
    good: str = Field(min_length=1)
    bad: str = Field(min_length=1)


class Panel(_Part):
    """One panel: a graph of its queries, or with ``kind: states`` a state for each series (1 good, 0 bad)."""

    name: str = Field(pattern=_NAME)
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    unit: Unit
    kind: Literal["graph", "states"] = "graph"
    min: float | None = None
    queries: tuple[Query, ...] = Field(min_length=1)
    limits: tuple[Limit, ...] = ()
    check: Check | None = None

    @property
    def all_queries(self) -> tuple[Query, ...]:
        """Queries, limits and the check: all that must have an answer."""
        limits = tuple(
            Query(name=limit.name.replace("_", "-"), legend=limit.legend, expr=limit.expr) for limit in self.limits
        )
        check = (Query(name="check", legend="check", expr=self.check.expr),) if self.check else ()
        return self.queries + limits + check

    @model_validator(mode="after")
    def _names_are_unique(self) -> Panel:
        _refuse_doubles(f"panel {self.name}", [query.name for query in self.queries])
        return self


class Row(_Part):
    """Panels that belong together."""

    title: str = Field(min_length=1)
    panels: tuple[Panel, ...] = Field(min_length=1)


class Dashboard(_Part):
    """One dashboard: ``uid`` names its file, its page and its address."""

    uid: str = Field(pattern=_NAME)
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels of all rows, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)


class _File(_Part):
    dashboards: tuple[Dashboard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> _File:
        _refuse_doubles("panels.yml", [dashboard.uid for dashboard in self.dashboards])
        for dashboard in self.dashboards:
            _refuse_doubles(f"dashboard {dashboard.uid}", [panel.name for panel in dashboard.panels])
        return self


def load(path: Path = FILE) -> tuple[Dashboard, ...]:
    """Read the dashboards.

    :raises pydantic.ValidationError: naming the field, what was found there and what is allowed.
    """
    return _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).dashboards


def _refuse_doubles(where: str, names: list[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ValueError(f"{where}: found {', '.join(doubles)} more than once, expected each name once")
