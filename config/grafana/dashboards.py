"""Grafana's dashboards, made of the panels by Grafana's own builders."""

from __future__ import annotations

import itertools
import json
import string

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from config.grafana.panels import LABEL, Check, Dashboard, Panel, Query, Unit

#: The uid that the role grafana gives the datasource.
DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="prometheus")
#: Three panels side by side in Grafana's grid of 24 columns.
WIDTH, HEIGHT = 8, 9

_GOOD, _BAD = "green", "red"
_UNITS: dict[Unit, str] = {
    "per_second": "cps",
    "seconds": "s",
    "ratio": "percentunit",
    "bytes": "bytes",
    "bytes_per_second": "Bps",
    "bytes_per_day": "bytes",
    "count": "short",
    "state": "short",
}


def render(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard as Grafana's file provider reads it."""
    ids = itertools.count(1)
    made = (
        builder.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["streaming-pipeline"])
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .timezone(common.TimeZoneBrowser)
        .link(
            builder.DashboardLink("Dashboards")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["streaming-pipeline"])
            .keep_time(True)
        )
    )
    for row in dashboard.rows:
        made = made.with_row(builder.Row(row.title).id(next(ids)))
        for panel in row.panels:
            made = made.with_panel(_panel(panel).id(next(ids)).span(WIDTH).height(HEIGHT))
        checks = [(panel.title, panel.check) for panel in row.panels if panel.check]
        if checks:
            made = made.with_panel(_verdicts(checks).id(next(ids)).span(WIDTH).height(HEIGHT))
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _panel(panel: Panel) -> timeseries.Panel | statetimeline.Panel:
    return _states(panel) if panel.kind == "states" else _graph(panel)


def _graph(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .unit(_UNITS[panel.unit])
        .line_width(2)
        .fill_opacity(8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builder.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common_builder.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    )
    if panel.min is not None:
        made = made.min(panel.min)
    references = iter(string.ascii_uppercase)
    for query in panel.queries:
        reference = next(references)
        made = made.with_target(_target(query, reference))
        if query.unit and query.unit != panel.unit:
            made = made.override_by_query(
                reference,
                [
                    DynamicConfigValue("unit", _UNITS[query.unit]),
                    DynamicConfigValue("custom.axisPlacement", common.AxisPlacement.RIGHT),
                ],
            )
    for limit in panel.limits:
        reference = next(references)
        made = made.with_target(_target(Query(name="limit", legend=limit.legend, expr=limit.expr), reference))
        made = made.override_by_query(
            reference,
            [
                DynamicConfigValue("color", {"mode": "fixed", "fixedColor": _BAD}),
                DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
                DynamicConfigValue("custom.fillOpacity", 0),
            ],
        )
    return made


def _states(panel: Panel) -> statetimeline.Panel:
    made = (
        statetimeline.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .unit(_UNITS[panel.unit])
        .show_value(common.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
        .thresholds(_good_from_one())
        .mappings(_words("up", "down"))
        .color_scheme(builder.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    )
    for reference, query in zip(string.ascii_uppercase, panel.queries, strict=False):
        made = made.with_target(_target(query, reference))
    return made


def _verdicts(checks: list[tuple[str, Check]]) -> stat.Panel:
    """Return one panel with the verdict of each check of a row."""
    made = (
        stat.Panel()
        .title("Verdicts")
        .description("Each answer of this row; no data counts as bad.")
        .datasource(DATASOURCE)
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
        .orientation(common.VizOrientation.HORIZONTAL)
        .reduce_options(common_builder.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_good_from_one())
        .no_value("no data")
    )
    for reference, (title, check) in zip(string.ascii_uppercase, checks, strict=False):
        target = _target(Query(name="check", legend=title, expr=check.expr), reference).instant()
        made = made.with_target(target).override_by_query(
            reference, [DynamicConfigValue("mappings", _words(check.good, check.bad))]
        )
    return made


def _target(query: Query, reference: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(query.expr)
        .legend_format(LABEL.sub(r"{{\1}}", query.legend))
        .ref_id(reference)
    )


def _good_from_one() -> builder.ThresholdsConfig:
    # Grafana wants the first step without a value: it begins at minus infinity.
    steps = [model.Threshold(value=None, color=_BAD), model.Threshold(value=1, color=_GOOD)]
    return builder.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _words(good: str, bad: str) -> list[model.ValueMapping]:
    return [
        model.ValueMap(
            options={
                "1": model.ValueMappingResult(text=good, color=_GOOD, index=0),
                "0": model.ValueMappingResult(text=bad, color=_BAD, index=1),
            }
        )
    ]
