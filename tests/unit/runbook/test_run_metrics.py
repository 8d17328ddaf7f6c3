"""Figures of runs in the text file that node_exporter reads."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import run_metrics
from ansible_collections.streamops.runbook.plugins.module_utils.catalog import Procedure


def procedure(schedule: str | None = None, risk: str = "safe") -> Procedure:
    return Procedure("site", "Site", "S", severity="P3", risk=risk, deadline=60, schedule=schedule)


def run(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"procedure": "site", "status": status, "seconds": 12.5, "trigger": "human", **more}


def samples(folder: Path) -> run_metrics.Samples:
    return run_metrics.read(folder / run_metrics.FILE)


def test_runs_add_up_and_the_newest_shows_how_it_ended(tmp_path: Path) -> None:
    run_metrics.record(tmp_path, run(), procedure(), 100.0)
    run_metrics.record(tmp_path, run("failed"), procedure(), 200.0)
    found = samples(tmp_path)
    assert found["runbook_runs_total"] == {("site", "completed"): 1, ("site", "failed"): 1}
    assert found["runbook_last_run_status"] == {("site", "failed"): 1}
    assert found["runbook_last_run_timestamp_seconds"] == {("site",): 200}
    assert found["runbook_last_success_timestamp_seconds"] == {("site",): 100}
    assert found["runbook_last_run_seconds"] == {("site",): 12.5}


def test_refused_and_locked_runs_are_counted_and_say_nothing_of_the_procedure(tmp_path: Path) -> None:
    run_metrics.record(tmp_path, run(), procedure(), 100.0)
    run_metrics.record(tmp_path, run("locked"), procedure(), 200.0)
    run_metrics.record(tmp_path, run("refused"), procedure(), 300.0)
    found = samples(tmp_path)
    assert found["runbook_runs_total"][("site", "locked")] == 1
    assert found["runbook_last_run_status"] == {("site", "completed"): 1}


def test_only_what_a_schedule_ran_can_be_missed(tmp_path: Path) -> None:
    run_metrics.record(tmp_path, run(), procedure("*/15 * * * *"), 100.0)
    assert samples(tmp_path)["runbook_schedule_period_seconds"] == {}
    run_metrics.record(tmp_path, run(trigger="cron"), procedure("*/15 * * * *"), 200.0)
    found = samples(tmp_path)
    assert found["runbook_schedule_period_seconds"] == {("site",): 900}
    assert found["runbook_last_scheduled_run_timestamp_seconds"] == {("site",): 200}


def test_runs_that_end_at_one_moment_are_all_counted(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: run_metrics.record(tmp_path, run(), procedure(), 100.0), range(24)))
    assert samples(tmp_path)["runbook_runs_total"] == {("site", "completed"): 24}


def test_a_damaged_file_begins_anew_and_the_exporter_may_read_it(tmp_path: Path) -> None:
    (tmp_path / run_metrics.FILE).write_text("runbook_runs_total{ broken")
    run_metrics.record(tmp_path, run(), procedure(), 100.0)
    assert samples(tmp_path)["runbook_runs_total"] == {("site", "completed"): 1}
    assert stat.S_IMODE((tmp_path / run_metrics.FILE).stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("risk", "failures", "shown"),
    [
        ("read-only", [{"refusal": True}], "unhealthy"),
        ("read-only", [{"refusal": True}, {"refusal": False}], "failed"),
        ("read-only", [{"message": "deadline of 60 s passed"}], "failed"),
        ("read-only", [], "failed"),
        ("safe", [{"refusal": True}], "failed"),
    ],
)
def test_a_check_that_found_something_bad_is_no_run_that_failed(
    risk: str, failures: list[dict[str, Any]], shown: str, tmp_path: Path
) -> None:
    run_metrics.record(tmp_path, run("failed", failures=failures), procedure(risk=risk), 100.0)
    assert samples(tmp_path)["runbook_last_run_status"] == {("site", shown): 1}


def test_figures_for_an_exporter_of_several_controllers_say_whose_they_are(tmp_path: Path) -> None:
    run_metrics.record(tmp_path, run(), procedure(), 100.0)
    text = run_metrics.labelled(tmp_path, "ops-1")
    assert 'runbook_runs_total{controller="ops-1",procedure="site",status="completed"} 1.0' in text
    assert 'runbook_last_run_timestamp_seconds{controller="ops-1",procedure="site"} 100.0' in text
    # Those of another one are no second sample of the same.
    others = run_metrics.labelled(tmp_path, "ops-2").splitlines()
    assert not {line for line in text.splitlines() if line[0] != "#"} & set(others)
