"""Figures of runs as a text file that node_exporter reads: how often, how they ended, when, how long.

The file is its own memory: each run reads it, adds itself and replaces it, under a lock. Where it was lost
it begins anew, which a counter's reader takes for a reset.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from . import file_lock
from .catalog import Procedure

FILE = "runs.prom"

Samples = dict[str, dict[tuple[str, ...], float]]

_RUNS = "runbook_runs_total"
_LAST = "runbook_last_run_timestamp_seconds"
_STATUS = "runbook_last_run_status"
_SECONDS = "runbook_last_run_seconds"
_SUCCESS = "runbook_last_success_timestamp_seconds"
_SCHEDULED = "runbook_last_scheduled_run_timestamp_seconds"
_PERIOD = "runbook_schedule_period_seconds"

_FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    _RUNS: ("Runs by how they ended; refused and locked ones too.", ("procedure", "status")),
    _LAST: ("Unix time at which the newest run ended.", ("procedure",)),
    _STATUS: ("1 for how the newest run ended.", ("procedure", "status")),
    _SECONDS: ("Seconds that the newest run took.", ("procedure",)),
    _SUCCESS: ("Unix time at which the newest completed run ended.", ("procedure",)),
    _SCHEDULED: ("Unix time at which the newest run by a schedule ended.", ("procedure",)),
    _PERIOD: ("Seconds between two runs by the procedure's schedule.", ("procedure",)),
}
# A run that was refused or found the lock taken did nothing: it does not stand for the state of the procedure.
_NO_VERDICT = ("refused", "locked")
_SCHEDULES = ("cron", "awx")


def record(folder: Path, finished: Mapping[str, Any], procedure: Procedure, ended_at: float) -> None:
    """Add a finished run to the text file.

    :param folder: where the file stands; it is made, readable by the exporter.
    :param finished: the run's record: status, failures, seconds, trigger.
    :param procedure: of the run.
    :param ended_at: Unix time.
    :raises OSError: when the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    with (folder / f".{FILE}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / FILE
        samples = read(path)
        _add(samples, finished, procedure, ended_at)
        registry = CollectorRegistry()
        registry.register(_Collector(samples))
        # By atomic rename: a scrape sees the old figures or the new ones.
        write_to_textfile(str(path), registry)
        path.chmod(0o644)


def read(path: Path) -> Samples:
    """Return the samples of the file by metric and label values; empty where there is none to read."""
    samples: Samples = {name: {} for name in _FAMILIES}
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return samples
    for family in families:
        for sample in family.samples:
            if sample.name in _FAMILIES:
                key = tuple(sample.labels[label] for label in _FAMILIES[sample.name][1])
                samples[sample.name][key] = sample.value
    return samples


def labelled(folder: Path, controller: str) -> str:
    """Return the figures of this controller for an exporter that serves those of others too, told apart by a label.

    :param folder: see :func:`record`.
    :param controller: the label's value.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(read(folder / FILE), controller))
    return generate_latest(registry).decode()


def turn(
    folder: Path,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> AbstractContextManager[bool]:
    """Hold the turn of one run to read the figures and hand them on.

    Runs that end at one moment do so one after the other: else what one has read before another could arrive after it,
    and take the other's place.

    :param folder: see :func:`record`.
    :param patience: seconds to wait for those whose turn it is.
    :returns: whether it is this run's turn.
    """
    return file_lock.held(folder / f".{FILE}.turn", clock() + patience, clock, sleep)


def shown_status(finished: Mapping[str, Any], procedure: Procedure) -> str:
    """Return the status that the figures show: the record's own, but for a check that found something bad.

    Such a run did what it is for, and what it found has alerts of its own: ``unhealthy``.
    """
    verdicts = [failure.get("refusal", False) for failure in finished.get("failures", [])]
    found = procedure.risk == "read-only" and finished["status"] == "failed" and bool(verdicts) and all(verdicts)
    return "unhealthy" if found else str(finished["status"])


def _add(samples: Samples, finished: Mapping[str, Any], procedure: Procedure, ended_at: float) -> None:
    name, status, period_seconds = procedure.name, shown_status(finished, procedure), procedure.period_seconds()
    runs = samples[_RUNS]
    runs[name, status] = runs.get((name, status), 0.0) + 1
    if status in _NO_VERDICT:
        return
    samples[_STATUS] = {key: value for key, value in samples[_STATUS].items() if key[0] != name}
    samples[_STATUS][name, status] = 1.0
    samples[_LAST][(name,)] = ended_at
    samples[_SECONDS][(name,)] = float(finished.get("seconds", 0.0))
    if status == "completed":
        samples[_SUCCESS][(name,)] = ended_at
    # Only what a schedule has run before is missed when it does not run again.
    if finished.get("trigger") in _SCHEDULES and period_seconds is not None:
        samples[_SCHEDULED][(name,)] = ended_at
        samples[_PERIOD][(name,)] = period_seconds


class _Collector:
    """The samples as families; with a controller, each has its name as one more label."""

    def __init__(self, samples: Samples, controller: str = "") -> None:
        self._samples = samples
        self._more = {"controller": controller} if controller else {}

    def collect(self) -> Iterable[Metric]:
        for name, (text, labels) in _FAMILIES.items():
            family: CounterMetricFamily | GaugeMetricFamily
            if name == _RUNS:
                family = CounterMetricFamily(name.removesuffix("_total"), text, labels=(*labels, *self._more))
            else:
                family = GaugeMetricFamily(name, text, labels=(*labels, *self._more))
            for key, value in sorted(self._samples[name].items()):
                family.add_metric((*key, *self._more.values()), value)
            yield family
