"""A configuration of what watches that does not hold: refused before it is in place, or put back after."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from .conftest import Lab


def configuration(lab: Lab) -> Path:
    return lab.root / "hosts" / "monitoring-1" / "etc" / "prometheus" / "prometheus.yml"


def live(lab: Lab) -> str:
    """Return the configuration that Prometheus itself says it runs with."""
    address = json.loads((lab.root / "endpoints.json").read_text())["prometheus"]
    with urllib.request.urlopen(f"{address}/api/v1/status/config", timeout=10) as answer:  # noqa: S310
        body: dict[str, Any] = json.load(answer)
    return str(body["data"]["yaml"])


@pytest.mark.fault("config-drift")
def test_a_configuration_that_the_checker_refuses_is_never_put_in_place(lab: Lab) -> None:
    before, running = configuration(lab).read_text(), live(lab)
    answer = lab.play("monitoring-configure", "-e", "prometheus_scrape_interval=often")
    assert answer.code == 2, answer.output[-3000:]
    assert "promtool on the files of prometheus" in answer.output
    assert "often" in answer.output
    assert lab.records("monitoring-configure")[-1]["status"] == "failed"
    assert (configuration(lab).read_text(), live(lab)) == (before, running)


@pytest.mark.fault("config-drift")
def test_a_configuration_that_does_not_hold_is_put_back(lab: Lab) -> None:
    before, running = configuration(lab).read_text(), live(lab)
    dead = {"name": "dead", "targets": [{"address": "127.0.0.1:9", "host": "nowhere", "service": "inbox"}]}
    values = json.dumps({"prometheus_jobs": [dead]})
    answer = lab.play("monitoring-configure", "-e", values)
    assert answer.code == 2, answer.output[-3000:]
    record = lab.records("monitoring-configure")[-1]
    assert record["status"] == "rolled_back"
    assert any("put back" in deed for deed in record["did"])
    assert (configuration(lab).read_text(), live(lab)) == (before, running)
    again = lab.play("monitoring-configure")
    assert again.code == 0, again.output[-3000:]
    assert lab.records("monitoring-configure")[-1]["changed"] == 0
