"""Progress lines of modules."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.progress import report


def test_each_report_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "progress"
    monkeypatch.setenv("RUNBOOK_PROGRESS", str(file))
    report("first")
    report("second\nwith a break")
    assert file.read_text() == "first\nsecond with a break\n"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("value", ["", "/nowhere/at/all"])
def test_nothing_to_write_to_ends_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_PROGRESS", value)
    report("unheard")


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNBOOK_PROGRESS", raising=False)
    report("unheard")
