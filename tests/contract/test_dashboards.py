"""The panels are complete, what is made of them is fresh, and the role grafana deploys it without a secret on show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from pydantic import ValidationError

from config.grafana import consoles, dashboards, panels

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = panels.load()
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
CANARY = "Vb3Canary9Secret77qrs-of-grafana-that-is-long"


def names(value: object) -> str:
    return getattr(value, "uid", "") or getattr(value, "name", "")


def made(dashboard: panels.Dashboard) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "config/grafana/dashboards" / f"{dashboard.uid}.json").read_text())
    return content


def unknown(content: dict[str, Any]) -> list[str]:
    """What a dashboard says that Grafana's schema does not know, as paths: reading it passes over such a thing.

    What the schema adds, defaults, is no matter.
    """

    def lost(said: Any, read: Any, path: str) -> list[str]:
        if isinstance(said, dict) and isinstance(read, dict):
            return [
                found
                for key, value in said.items()
                for found in (lost(value, read[key], f"{path}/{key}") if key in read else [f"{path}/{key}"])
            ]
        if isinstance(said, list) and isinstance(read, list) and len(said) == len(read):
            return [
                found
                for number, pair in enumerate(zip(said, read, strict=True))
                for found in lost(*pair, f"{path}/{number}")
            ]
        return [] if said == read else [path]

    # Without these, what belongs to a kind of panel is not looked into.
    plugins.register_default_plugins()
    return lost(content, json.loads(JSONEncoder().encode(model.Dashboard.from_json(content))), "")


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("panels", 1),
        ("panels", 1, "options"),
        ("panels", 1, "fieldConfig", "defaults"),
        ("panels", 1, "fieldConfig", "defaults", "custom"),
        ("panels", 1, "targets", 0),
    ],
    ids=lambda place: "/".join(map(str, place)) or "top",
)
def test_a_name_that_the_schema_does_not_know_is_noticed(place: tuple[str | int, ...]) -> None:
    content = made(DASHBOARDS[0])
    inner: Any = content
    for step in place:
        inner = inner[step]
    inner["colour"] = "red"
    assert unknown(content) == ["/" + "/".join([*map(str, place), "colour"])]


def test_made_files_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "config/grafana/build.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_first_row_of_the_overview_is_the_daily_checklist() -> None:
    overview = DASHBOARDS[0]
    assert overview.uid == "pipeline-overview"
    assert [panel.title for panel in overview.rows[0].panels] == [
        "Message volume trend",
        "Processing latency within SLA",
        "No error spikes",
        "Storage growth rate normal",
        "All services healthy",
    ]
    assert all(panel.check for panel in overview.rows[0].panels)


def test_every_threshold_is_one_of_the_alerts() -> None:
    thresholds = yaml.safe_load((ROOT / "config/prometheus/alerts.yml").read_text())["thresholds"]
    named = {
        name
        for _, panel in PANELS
        for query in panel.all_queries
        for name in re.findall(r'runbook_threshold\{name="(\w+)"\}', query.expr)
    }
    assert named
    assert named <= set(thresholds)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=names)
def test_grafana_dashboard_holds_every_panel_and_query(dashboard: panels.Dashboard) -> None:
    content = made(dashboard)
    drawn = [panel for panel in content["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in drawn if panel["title"] != "Verdicts"] == [
        panel.title for panel in dashboard.panels
    ]
    assert {target["expr"] for panel in drawn for target in panel["targets"]} == {
        query.expr for panel in dashboard.panels for query in panel.all_queries
    }
    for panel in drawn:
        assert panel["datasource"]["uid"] == "prometheus"
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=names)
def test_grafana_dashboard_is_one_by_the_schema_and_its_panels_do_not_overlap(dashboard: panels.Dashboard) -> None:
    content = made(dashboard)
    assert unknown(content) == []
    identifiers = [panel["id"] for panel in content["panels"]]
    assert len(identifiers) == len(set(identifiers))
    cells = [
        (column, line)
        for position in (panel["gridPos"] for panel in content["panels"])
        for column in range(position["x"], position["x"] + position["w"])
        for line in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"unit": "furlongs"}, "unit"),
        ({"colour": "red"}, "colour"),
        ({"queries": []}, "queries"),
        ({"queries": [{"name": "a", "legend": "a", "expr": "up"}] * 2}, "more than once"),
    ],
)
def test_wrong_panels_are_refused_by_name(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    panel = {
        "name": "one",
        "title": "One",
        "description": "One panel.",
        "unit": "count",
        "queries": [{"name": "up", "legend": "up", "expr": "up"}],
        **change,
    }
    rows = [{"title": "Row", "panels": [panel]}]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"dashboards": [{"uid": "d", "title": "D", "description": "D.", "rows": rows}]}))
    with pytest.raises(ValidationError, match=complaint):
        panels.load(file)


def test_an_expression_that_would_end_its_template_is_refused() -> None:
    query = panels.Query(name="bad", legend="bad", expr="up{job=~`kafka`}")
    panel = panels.Panel(name="bad", title="Bad", description="Bad.", unit="count", queries=(query,))
    dashboard = panels.Dashboard(
        uid="bad", title="Bad", description="Bad.", rows=(panels.Row(title="Row", panels=(panel,)),)
    )
    with pytest.raises(ValueError, match="backquote"):
        consoles.render(dashboard, [dashboard])
    # Grafana has no such limit.
    assert json.loads(dashboards.render(dashboard))["uid"] == "bad"


def play(folder: Path, entry: str, **changes: object) -> subprocess.CompletedProcess[str]:
    """Run an entry point of the role on this machine, planning only, at Ansible's most talkative."""
    variables: dict[str, object] = {
        "host_root": str(folder / "host"),
        "host_address": "127.0.0.1",
        "service_runtime": "supervisor",
        "ansible_managed": "Written by a test",
        "grafana_binary": "/usr/share/grafana/bin/grafana",
        "grafana_dashboards": str(ROOT / "config/grafana/dashboards"),
        "grafana_root_url": "https://grafana.example.org/",
        "grafana_admin_password": CANARY,
        "grafana_secret_key": CANARY,
        "grafana_prometheus_url": "https://prometheus.example.org:9090",
        "grafana_prometheus_user": {"username": "reader", "password": CANARY},
        **changes,
    }
    task = {"ansible.builtin.include_role": {"name": "grafana", "tasks_from": entry}}
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": [task]}]
    (folder / "play.yml").write_text(yaml.safe_dump(plays))
    (folder / "ansible.cfg").touch()
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "-vvv", "--check", "--diff", "play.yml"],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def test_role_plans_its_files_and_shows_no_secret(tmp_path: Path) -> None:
    done = play(tmp_path, "deploy")
    # The variables stand in the play, which Ansible does not print; what it prints comes of the role.
    assert done.returncode == 0, done.stdout[-3000:]
    assert CANARY not in done.stdout
    for line in (
        "cookie_secure = true",
        "cookie_samesite = strict",
        "allow_sign_up = false",
        "enforce_domain = true",
        "domain = grafana.example.org",
        f"admin_password = $__file{{{tmp_path}/host/etc/grafana/admin-password}}",
        f"basicAuthPassword: $__file{{{tmp_path}/host/etc/grafana/prometheus-password}}",
        "uid: prometheus",
    ):
        assert line in done.stdout, line
    for dashboard in DASHBOARDS:
        assert f"etc/grafana/dashboards/{dashboard.uid}.json" in done.stdout
    assert not (tmp_path / "host").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"grafana_root_url": "http://grafana.example.org/"},
        {"grafana_admin_password": "short"},
        {"grafana_dashboards": "/nonexistent"},
    ],
    ids=["plain-http", "short-password", "no-dashboards"],
)
def test_precheck_refuses(tmp_path: Path, change: dict[str, object]) -> None:
    done = play(tmp_path, "precheck", **change)
    assert done.returncode == 2, done.stdout[-3000:]
    assert "Next: " in done.stdout
    assert CANARY not in done.stdout
