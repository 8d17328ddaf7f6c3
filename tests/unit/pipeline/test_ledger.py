"""The ledger: it tells the truth whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import LedgerError
from pipeline.events import Event
from pipeline.ledger import LedgerWriter, read_ledger

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def event(sequence: int) -> Event:
    return Event("load-0001", "boot-1", sequence, NOW, {"a": 1.0})


def write(path: Path, boot_id: str = "boot-1", sent: int = 3, acked: int = 2) -> None:
    ledger = LedgerWriter(path)
    ledger.begin(boot_id, "2026-01-31T12:00:00.000000Z")
    ledger.sent([event(n) for n in range(sent)])
    for n in range(acked):
        ledger.acked(event(n), partition=1, offset=10 + n)
    ledger.close()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "ledger.tsv")
    ledger = read_ledger(tmp_path / "deep" / "ledger.tsv")
    assert ledger.boot_ids == {"boot-1"}
    assert ledger.sent == {("boot-1", "load-0001", n) for n in range(3)}
    assert ledger.acked == {("boot-1", "load-0001", n) for n in range(2)}
    assert ledger.started == "2026-01-31T12:00:00.000000Z"


def test_a_second_load_appends_its_own_part(tmp_path: Path) -> None:
    path = tmp_path / "ledger.tsv"
    write(path, "boot-1", sent=1, acked=1)
    write(path, "boot-2", sent=2, acked=0)
    ledger = read_ledger(path)
    assert ledger.boot_ids == {"boot-1", "boot-2"}
    assert len(ledger.sent) == 3
    assert ledger.acked == {("boot-1", "load-0001", 0)}


def test_a_failed_event_is_sent_and_not_acked(tmp_path: Path) -> None:
    path = tmp_path / "ledger.tsv"
    writer = LedgerWriter(path)
    writer.begin("boot-1", "t")
    writer.sent([event(0)])
    writer.failed(event(0), RuntimeError("two\nlines\tand a tab"))
    writer.end(1, 0, 1)
    ledger = read_ledger(path)
    assert (len(ledger.sent), len(ledger.acked), ledger.failed) == (1, 0, 1)


@pytest.mark.parametrize("cut", ["acked\tload-0001\t1\t1\t1", "sent\tload-0001\t", "acke", "sent"])
def test_a_cut_last_line_is_not_read(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "ledger.tsv"
    write(path)
    with path.open("a") as stream:
        stream.write(cut)
    assert len(read_ledger(path).acked) == 2


@pytest.mark.parametrize("cut", ["acked\tload-0001\t1", "sent\tload-0001\t", "acke"])
def test_a_later_load_goes_on_after_a_cut_line(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "ledger.tsv"
    write(path, "boot-1", sent=2, acked=1)
    with path.open("a") as stream:
        stream.write(cut)
    write(path, "boot-2", sent=2, acked=2)
    ledger = read_ledger(path)
    assert (len(ledger.sent), len(ledger.acked)) == (4, 3)


@pytest.mark.parametrize(
    "content",
    ["", "sent\tload-0001\t1\t1\n", "nonsense\nload\tb\tt\nmore nonsense\n", "load\tb\tt\nacked\tx\n\n"],
)
def test_what_is_no_ledger_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ledger.tsv"
    path.write_text(content)
    with pytest.raises(LedgerError, match=r"ledger\.tsv"):
        read_ledger(path)


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"ledger\.tsv"):
        read_ledger(tmp_path / "ledger.tsv")


def test_two_loads_never_write_one_ledger(tmp_path: Path) -> None:
    first = LedgerWriter(tmp_path / "ledger.tsv")
    with pytest.raises(LedgerError, match="another load"):
        LedgerWriter(tmp_path / "ledger.tsv")
    first.close()
    LedgerWriter(tmp_path / "ledger.tsv").close()


def test_what_was_noted_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "ledger.tsv"
    code = f"""
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from pipeline.events import Event
from pipeline.ledger import LedgerWriter
ledger = LedgerWriter(Path({str(path)!r}))
ledger.begin("boot-1", "t")
event = Event("load-0001", "boot-1", 0, datetime.now(UTC), {{"a": 1.0}})
ledger.sent([event])
ledger.acked(event, 0, 0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    ledger = read_ledger(path)
    assert ledger.sent == ledger.acked == {("boot-1", "load-0001", 0)}
