"""How a run ends, told from what its tasks came to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.callback import record
from ansible_collections.streamops.runbook.plugins.module_utils import catalog, runs

PROOF = {"proof": {"lines": ["x"]}}
DEAD = {"unreachable": {"kafka-3": ["kafka"]}}
REFUSAL = {"phase": "plan", "refusal": True}
CRASH = {"phase": "act", "refusal": False}


def verdict(
    fragments: dict[str, Any],
    *failures: dict[str, Any],
    risk: str = "disruptive",
    check: bool = False,
    dark: int = 0,
) -> str:
    callback = record.CallbackModule()
    callback._procedure = catalog.Procedure("x", "X", "S", "P1", risk, 60)
    callback._run = runs.Run(Path("none"), "id", "x", {"check": check})
    callback._fragments = {"decisions": [], "did": [], "readings": {}, **fragments}
    callback._failures = list(failures)
    stats = SimpleNamespace(failures=len(failures), rescued=0, dark=dark)
    return callback._verdict(stats)


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        (PROOF, "completed"),
        ({**PROOF, **DEAD}, "degraded"),
        ({**PROOF, "unreachable": {}}, "completed"),
        ({**PROOF, "status": "degraded"}, "degraded"),
        # Hosts out of reach are no excuse for a run that proved nothing.
        (DEAD, "failed"),
        ({}, "failed"),
    ],
)
def test_run_that_acts_is_worth_its_proof(fragments: dict[str, Any], expected: str) -> None:
    assert verdict(fragments) == expected


def test_what_the_target_cannot_do_is_kept_with_its_hosts() -> None:
    callback = record.CallbackModule()
    callback._run = runs.Run(Path("none"), "id", "x", {"check": False})
    for host, what in (("kafka-1", "no limit"), ("kafka-2", "no limit"), ("kafka-2", "no limit"), ("minio-1", "no x")):
        task = SimpleNamespace(action="streamops.runbook.service")
        answer = {"skipped_limits": [what], "changed": False}
        callback._collect(
            SimpleNamespace(result=answer, task=task, host=SimpleNamespace(get_name=lambda host=host: host))
        )
    assert callback._fragments["skipped"] == {"no limit": ["kafka-1", "kafka-2"], "no x": ["minio-1"]}


def test_unproven_run_names_the_hosts_out_of_reach() -> None:
    callback = record.CallbackModule()
    callback._procedure = catalog.Procedure("x", "X", "S", "P1", "disruptive", 60)
    callback._run = runs.Run(Path("none"), "id", "x", {"check": False})
    callback._fragments = {"decisions": [], **DEAD}
    assert callback._verdict(SimpleNamespace(failures=0, rescued=0, dark=1)) == "failed"
    assert "kafka-3" in callback._failures[-1]["message"]


def test_plan_with_hosts_out_of_reach_is_degraded_and_no_plan_is_a_failure() -> None:
    assert verdict({"plan": {}, **DEAD}, check=True) == "degraded"
    assert verdict(DEAD, check=True) == "failed"


def test_reading_run_needs_no_proof() -> None:
    assert verdict(DEAD, risk="read-only") == "degraded"
    assert verdict({}, risk="read-only", dark=1) == "degraded"


@pytest.mark.parametrize(
    ("fragments", "failure", "expected"),
    [
        ({}, REFUSAL, "refused"),
        ({}, CRASH, "failed"),
        # A lost quorum is found early and is no refusal all the same.
        ({"status": "failed"}, REFUSAL, "failed"),
        ({"status": "rolled_back"}, CRASH, "rolled_back"),
        # What failed after a good word outweighs it.
        ({**PROOF, **DEAD, "status": "degraded"}, CRASH, "failed"),
        ({**PROOF, "status": "completed"}, CRASH, "failed"),
    ],
)
def test_failure_outweighs_every_good_word(fragments: dict[str, Any], failure: dict[str, Any], expected: str) -> None:
    assert verdict(fragments, failure) == expected
