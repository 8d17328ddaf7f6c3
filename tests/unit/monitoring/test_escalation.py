from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.filter import alerting as filters
from ansible_collections.streamops.runbook.plugins.module_utils import alerting
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused

from .conftest import PROJECT, Tools

ESCALATION = PROJECT / "config" / "escalation.yml"
FILLED = {name: f"http://127.0.0.1:1/{name}" for name in (*alerting.CONTACTS, "watchdog")}


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(ESCALATION.read_text())
    return loaded


def written(folder: Path, contacts: dict[str, str]) -> Path:
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(filters.alertmanager_config(str(ESCALATION), contacts, "/etc/token")))
    return path


def amtool(tools: Tools, *arguments: str | Path) -> str:
    done = subprocess.run([tools.amtool, *arguments], text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("contacts", [FILLED, {}], ids=["filled", "unfilled"])
def test_the_configuration_passes_the_checker(contacts: dict[str, str], tools: Tools, tmp_path: Path) -> None:
    assert "8 receivers" in amtool(tools, "check-config", written(tmp_path, contacts))


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["severity=P1"], "P1"),
        (["severity=P2"], "P2-escalation,P2"),
        (["severity=P3"], "P3-escalation,P3"),
        (["severity=P4"], "P4-escalation,P4"),
        (["severity=P4", "alertname=Watchdog"], "watchdog"),
        (["alertname=Unclassed"], "P1"),
    ],
)
def test_alerts_reach_their_receivers(labels: list[str], receivers: str, tools: Tools, tmp_path: Path) -> None:
    told = amtool(tools, "config", "routes", "test", f"--config.file={written(tmp_path, FILLED)}", *labels)
    assert told.strip() == receivers


def test_times_are_those_of_the_runbook() -> None:
    levels = alerting.load_escalation(ESCALATION).levels
    hour, day = 3600, 86400
    assert {name: (level.response, level.escalation, level.update) for name, level in levels.items()} == {
        "P1": (900, 0, hour),
        "P2": (hour, 2 * hour, 2 * hour),
        "P3": (4 * hour, 8 * hour, day),
        "P4": (None, 3 * day, 7 * day),
    }
    routes = {
        route["receiver"]: route
        for route in filters.alertmanager_config(str(ESCALATION), FILLED, "/etc/token")["route"]["routes"]
    }
    assert routes["P2-escalation"]["group_wait"] == "7200s"
    assert routes["P2-escalation"]["group_by"] == ["..."]
    assert routes["P2-escalation"]["continue"] is True
    assert routes["P3"]["repeat_interval"] == "86400s"
    assert "P1-escalation" not in routes


def test_a_filled_contact_gets_the_token_from_its_file_and_no_redirect_does() -> None:
    config = filters.alertmanager_config(str(ESCALATION), {"team_lead": FILLED["team_lead"]}, "/etc/token")
    receivers = {receiver["name"]: receiver for receiver in config["receivers"]}
    (webhook,) = receivers["P2-escalation"]["webhook_configs"]
    assert webhook["url"] == FILLED["team_lead"]
    assert webhook["http_config"] == {
        "authorization": {"type": "Bearer", "credentials_file": "/etc/token"},
        "follow_redirects": False,
    }
    assert receivers["P2"] == {"name": "P2"}


def test_a_webhook_of_the_stack_is_spoken_to_in_its_tls_and_no_other(tools: Tools, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("ca_file", "cert_file", "key_file")}
    inside = "https://192.0.2.61:909"
    contacts = {name: f"{inside}/{name}" for name in FILLED} | {"team_lead": f"{inside}5/hook"}
    config = filters.alertmanager_config(str(ESCALATION), contacts, "/etc/token", tls=files, inside=[inside])
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(config))
    assert "8 receivers" in amtool(tools, "check-config", tmp_path / "alertmanager.yml")
    for receiver in config["receivers"]:
        (webhook,) = receiver["webhook_configs"]
        expected = files if webhook["url"].startswith(f"{inside}/") else None
        assert webhook["http_config"].get("tls_config") == expected
    without = filters.alertmanager_config(str(ESCALATION), contacts, "/etc/token", inside=[inside])
    assert "tls_config" not in yaml.safe_dump(without)


def test_unfilled_contacts_are_named_with_what_to_fill_in() -> None:
    found = filters.unfilled_contacts(str(ESCALATION), {"team_lead": FILLED["team_lead"], "watchdog": "[nothing]"})
    assert len(found) == 4
    assert found[0].startswith("On-call Engineer (the webhook address of on_call_engineer")
    assert not any("Team Lead" in line for line in found)
    assert filters.unfilled_contacts(str(ESCALATION), FILLED) == []


def test_a_contact_without_token_file_is_refused() -> None:
    with pytest.raises(Refused, match="token_file of the webhooks"):
        filters.alertmanager_config(str(ESCALATION), FILLED, "")


@pytest.mark.parametrize(
    ("contacts", "message"),
    [({"team-lead": "http://x/y"}, "contact team-lead"), ({"team_lead": "ftp://secret/y"}, "contact team_lead")],
)
def test_a_bad_contact_is_refused_without_its_address(contacts: dict[str, str], message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        filters.unfilled_contacts(str(ESCALATION), contacts)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("update", "soon"), ("contact", "nobody"), ("response", "1.5h"), ("escalation", 7200)]
)
def test_a_bad_level_is_refused_by_name(key: str, value: object) -> None:
    changed = document()
    changed["severities"]["P2"][key] = value
    with pytest.raises(Refused, match=f"severity P2, {key}"):
        alerting.parse_escalation(changed, {})


def definition(called: str, **changes: Any) -> dict[str, Any]:
    base = {"name": called, "expr": "up == ${limit}", "for": "1m", "severity": "P2", "component": "kafka"}
    return {**base, "summary": "S", "description": "D", **changes}


def test_definitions_are_read() -> None:
    made = alerting.parse({"thresholds": {"limit": 1}, "alerts": [definition("One")]})
    assert made.alerts[0].component == "kafka"
    assert alerting.filled(made.alerts[0], made.thresholds).expr == "up == 1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"severity": "P5"}, "alert One, severity"),
        ({"component": "disk"}, "alert One, component"),
        ({"summary": ""}, "alert One, summary"),
        ({"expr": "up == ${other}"}, r"found \$\{other\}"),
        ({"for": "soon"}, "alert One, for"),
        ({"name": "one"}, "alert one"),
        ({"owner": "x"}, "owner"),
        ({"inhibited_by": [{"alerts": ["Missing"]}]}, "found Missing"),
        ({"inhibited_by": [{"alerts": ["Quiet"]}]}, "Quiet of severity P4"),
        ({"inhibited_by": [{"alerts": ["One"]}]}, "a circle"),
    ],
)
def test_a_bad_definition_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    alerts = [definition("One", **changes), definition("Quiet", severity="P4")]
    with pytest.raises(Refused, match=message):
        alerting.parse({"thresholds": {"limit": 1}, "alerts": alerts})


def test_a_threshold_nobody_reads_is_refused_and_the_near_one_offered() -> None:
    made = alerting.parse({"thresholds": {"limit": 1}, "alerts": [definition("One")]})
    with pytest.raises(Refused, match="did you mean limit"):
        alerting.overridden(made, {"limits": 2})
    for bad in ("many", -1, True, float("inf")):
        with pytest.raises(Refused, match="threshold limit"):
            alerting.overridden(made, {"limit": bad})
    assert alerting.overridden(made, {"limit": "2"}).thresholds == {"limit": 2}


def test_thresholds_are_recorded_for_the_dashboards() -> None:
    groups = filters.alert_rules(
        str(PROJECT / "config/prometheus/alerts.yml"), str(PROJECT / "config/runbook"), {"consumer_lag_max": 7}, "x"
    )["groups"]
    recorded = {rule["labels"]["name"]: rule["expr"] for rule in groups[-1]["rules"]}
    assert recorded["consumer_lag_max"] == "vector(7)"
    assert recorded["error_ratio_max"] == "vector(0.01)"


def test_inhibitions_name_source_and_target() -> None:
    alerts = [
        definition("One"),
        definition("Two", inhibited_by=[{"alerts": ["One"], "equal": ["host"]}]),
    ]
    made = alerting.parse({"thresholds": {"limit": 1}, "alerts": copy.deepcopy(alerts)})
    config = alerting.alertmanager_config(alerting.load_escalation(ESCALATION), "", made)
    assert config["inhibit_rules"] == [
        {"source_matchers": ['alertname=~"One"'], "target_matchers": ['alertname="Two"'], "equal": ["host"]}
    ]
