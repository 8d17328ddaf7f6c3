"""How runs end and get along: a deadline in the middle of the work, the run after it, collisions, a takeover."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import monitoring

from .conftest import ROOT, Answer, Lab

#: Seconds; looking takes a few, restarting everything half a minute.
DEADLINE = 15
STOPS = ("stop producer", "stop spark-streaming", "stop kafka", "stop minio")


@dataclass(frozen=True)
class Cut:
    """A run that restarts everything and that its deadline ended in the middle.

    :param since: what it was told to restart everything older than.
    """

    since: str
    answer: Answer
    record: dict[str, Any]


@pytest.fixture(scope="module")
def cut(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Cut:
    copy = tmp_path_factory.mktemp("short") / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".cache", ".sandbox", ".git", ".*_cache"))
    catalog = copy / "config" / "runbook" / "20-emergency.yml"
    text = catalog.read_text()
    shortened = re.sub(r"(  emergency-restart:\n(?:    .*\n)*?    deadline: )\d+", rf"\g<1>{DEADLINE}", text)
    assert shortened != text
    catalog.write_text(shortened)
    since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    command = ("ansible-playbook", "playbooks/emergency-restart.yml", "-e", "restart=all", "-e", f"since={since}")
    answer = lab.run(*command, folder=copy)
    return Cut(since, answer, lab.records("emergency-restart")[-1])


def deeds(record: dict[str, Any], verb: str) -> list[str]:
    """Return what a run did with this verb, without the hosts, in order."""
    return [part for deed in record["did"] for part in deed.split(": ", 1)[1].split("; ") if part.startswith(verb)]


def workers(run: str) -> list[str]:
    """Return the command lines of what is left of a run: workers of Ansible and modules that they started."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if process.environ().get("RUNBOOK_RUN_ID") == run and "ansible" in words.lower():
                found.append(words)
        except psutil.Error:
            # Ended meanwhile, or another user's: not the lab's.
            continue
    return found


@pytest.mark.fault("deadline")
def test_a_run_ends_at_its_deadline_lets_go_and_does_nothing_more(lab: Lab, cut: Cut) -> None:
    assert cut.answer.code not in (0, 2, 3, 4, 75), cut.answer.output[-2000:]
    assert f"deadline of {DEADLINE} s passed in phase act" in cut.answer.output
    assert cut.record["status"] == "failed"
    assert f"deadline of {DEADLINE} s passed" in cut.record["failures"][-1]["message"]
    assert deeds(cut.record, "stop")
    # The task that was in flight ends first; the kernel lets go of the lock with it.
    end = time.monotonic() + 60
    with (lab.root / "state" / "locks" / "stack.lock").open() as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < end, workers(cut.record["id"])
                time.sleep(0.2)
    journal = lab.root / "state" / "runs" / f"{cut.record['id']}.journal.jsonl"
    before = journal.read_text()
    assert workers(cut.record["id"]) == []
    time.sleep(3)
    assert workers(cut.record["id"]) == []
    assert journal.read_text() == before


@pytest.mark.fault("28")
@pytest.mark.fault("deadline")
def test_the_next_run_finishes_it_and_others_are_told_who_holds_the_lock(
    lab: Lab, cut: Cut, declared: list[tuple[str, str]]
) -> None:
    same = ("-e", "restart=all", "-e", f"since={cut.since}")
    first, run = lab.holding("emergency-restart", *same)
    try:
        # The same procedure by a person and by an alert, another one on the same resource by a schedule.
        person = lab.play("emergency-restart")
        schedule = lab.play("restart-all", more={"RUNBOOK_TRIGGER": "cron"})
        alert = lab.play("emergency-restart", more={"RUNBOOK_TRIGGER": "alert"})
    finally:
        code = first.wait(300)
    assert code == 0
    for answer in (person, schedule, alert):
        assert answer.code == 75, answer.output[-2000:]
        assert re.search(rf"held by run {run} for \d+ s", answer.output)
    runs = {
        name: [one for one in lab.records(name) if one["id"] >= run] for name in ("emergency-restart", "restart-all")
    }
    done = [one for one in runs["emergency-restart"] if one["id"] == run]
    assert [one["status"] for one in done] == ["completed"]
    assert done[0]["changed"] > 0
    others = [one for some in runs.values() for one in some if one["id"] != run]
    assert sorted((one["procedure"], one["status"], one["trigger"]) for one in others) == [
        ("emergency-restart", "locked", "alert"),
        ("emergency-restart", "locked", "human"),
        ("restart-all", "locked", "cron"),
    ]

    # Both runs together have stopped everything in order, whatever the first one had come to.
    order = [STOPS.index(deed) for deed in deeds(cut.record, "stop") + deeds(done[0], "stop") if deed in STOPS]
    assert order == sorted(order)
    assert lab.play("status-all").code == 0
    services = json.loads((lab.root / "state" / "status.json").read_text())["services"]
    since = datetime.fromisoformat(cut.since)
    watching = {place for place in declared if place[0] in monitoring.SERVICES}
    young = {(one["service"], one["host"]) for one in services if datetime.fromisoformat(one["started_at"]) >= since}
    assert set(declared) - watching <= young

    # With the same time once more nothing is restarted twice.
    again = lab.play("emergency-restart", *same)
    assert again.code == 0, again.output[-4000:]
    assert lab.records("emergency-restart")[-1]["changed"] == 0


@pytest.mark.fault("28")
def test_takeover_ends_just_the_named_run_and_goes_on(lab: Lab) -> None:
    first, run = lab.holding("emergency-restart")
    wrong = lab.play("emergency-restart", "-e", "takeover=20300101T000000Z-emergency-restart-0000")
    assert wrong.code == 3, wrong.output[-2000:]
    assert f"expected the id of the holder, {run}" in wrong.output
    assert first.poll() is None
    second = lab.play("emergency-restart", "-e", f"takeover={run}")
    assert first.wait(20) != 0
    assert second.code == 0, second.output[-3000:]
    assert lab.records("emergency-restart")[-1]["interrupted_before"][0]["run"] == run
    left = json.loads((lab.root / "state" / "runs" / f"{run}.finished.json").read_text())
    assert left["status"] == "interrupted"


def test_from_another_folder_nothing_runs(lab: Lab, tmp_path: Path) -> None:
    count = len(lab.records("emergency-restart"))
    answer = lab.play("emergency-restart", folder=tmp_path)
    assert answer.code == 2
    assert "This run is not recorded" in answer.output
    assert len(lab.records("emergency-restart")) == count
