"""The catalog of procedures (config/runbook/*.yml) as typed values, and the validation of parameters."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from .errors import Refused

RISKS = ("read-only", "safe", "disruptive", "destructive")
SEVERITIES = ("P1", "P2", "P3", "P4")
# Extra variables that every procedure takes, beside the parameters of its own entry.
COMMON_PARAMETERS = frozenset({"reason", "takeover", "confirm", "without_lease"})


@dataclass(frozen=True)
class Parameter:
    """One extra variable of a procedure.

    :param type: ``choice``, ``integer``, ``number``, ``timestamp`` (RFC 3339) or ``string``.
    """

    name: str
    type: str
    text: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    default: str | None = None

    def allowed(self) -> str:
        """Say in words which values are allowed."""
        if self.type == "choice":
            return "one of " + ", ".join(self.choices)
        if self.type in ("integer", "number"):
            low = "-inf" if self.minimum is None else f"{self.minimum:g}"
            high = "inf" if self.maximum is None else f"{self.maximum:g}"
            return f"{'an integer' if self.type == 'integer' else 'a number'} from {low} to {high}"
        if self.type == "timestamp":
            return "an RFC 3339 time with its zone, such as 2030-01-31T03:00:00Z"
        return "a string that is not empty"

    def check(self, value: Any) -> None:
        """Raise :class:`Refused` unless ``value`` (as given by ``-e``) is allowed."""
        if not self._accepts(value):
            raise Refused(
                f"parameter {self.name}",
                repr(value),
                self.allowed(),
                f"-e {self.name}=VALUE with an allowed value, or leave it out",
            )

    def _accepts(self, value: Any) -> bool:
        if self.type == "choice":
            return value in self.choices
        if self.type == "timestamp":
            return parse_timestamp(value) is not None
        if self.type == "string":
            return isinstance(value, str) and value != ""
        if isinstance(value, bool):
            return False
        try:
            number = int(str(value)) if self.type == "integer" else float(str(value))
        except ValueError:
            return False
        low = self.minimum if self.minimum is not None else number
        high = self.maximum if self.maximum is not None else number
        return low <= number <= high


@dataclass(frozen=True)
class Procedure:
    """One entry of the catalog; ``deadline`` is in seconds.

    :param deploys: its modules themselves plan under ``--check``, and show the differences of files.
    :param founds: it may begin where nothing is deployed.
    """

    name: str
    title: str
    section: str
    severity: str
    risk: str
    deadline: int
    locks: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    schedule: str | None = None
    alerts: tuple[str, ...] = ()
    deploys: bool = False
    founds: bool = False
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    proved_by: tuple[Mapping[str, Any], ...] = ()

    def period_seconds(self) -> float | None:
        """Return the longest time between two runs of the schedule (a cron expression), None without one."""
        if self.schedule is None:
            return None
        from cronsim import CronSim

        moments = list(itertools.islice(CronSim(self.schedule, datetime(2030, 1, 1, tzinfo=UTC)), 32))
        return max((later - earlier).total_seconds() for earlier, later in itertools.pairwise(moments))

    def check_parameters(self, extra: Mapping[str, Any], known: Iterable[str]) -> None:
        """Refuse an extra variable that has a bad value or that nothing would read.

        :param extra: the extra variables of the run.
        :param known: names that the inventory defines (extra variables may override those).
        """
        names = set(known) | COMMON_PARAMETERS | set(self.parameters)
        for name, value in extra.items():
            if name in self.parameters:
                self.parameters[name].check(value)
            elif value == "":
                raise Refused(
                    f"extra variable {name}", "an empty value", "a value", "leave it out for the inventory's own"
                )
            elif name not in names and not name.startswith("ansible_"):
                near = difflib.get_close_matches(name, sorted(names), n=1)
                offered = ", ".join(sorted(self.parameters)) or "none"
                raise Refused(
                    f"extra variable {name}",
                    "no parameter of this procedure and no variable of the inventory",
                    f"parameters of {self.name}: {offered}",
                    f"did you mean {near[0]}?" if near else f"see docs/runbooks/{self.name}.md",
                )


def parse_timestamp(value: Any) -> datetime | None:
    """Read an RFC 3339 time that carries its zone; None where it is none."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _procedure(name: str, section: str, entry: Mapping[str, Any]) -> Procedure:
    parameters = {
        key: Parameter(
            name=key,
            type=spec["type"],
            text=spec["text"],
            choices=tuple(spec.get("choices", ())),
            minimum=spec.get("minimum"),
            maximum=spec.get("maximum"),
            default=spec.get("default"),
        )
        for key, spec in entry.get("parameters", {}).items()
    }
    return Procedure(
        name=name,
        title=entry["title"],
        section=section,
        severity=entry["severity"],
        risk=entry["risk"],
        deadline=int(entry["deadline"]),
        locks=tuple(entry.get("locks", ())),
        groups=tuple(entry.get("groups", ())),
        make=tuple(entry.get("make", ())),
        schedule=entry.get("schedule"),
        alerts=tuple(entry.get("alerts", ())),
        deploys=bool(entry.get("deploys", False)),
        founds=bool(entry.get("founds", False)),
        parameters=parameters,
        proved_by=tuple(entry.get("proved_by", ())),
    )


def load(folder: Path) -> dict[str, Procedure]:
    """Read every file of the catalog.

    :param folder: config/runbook.
    :returns: procedure by name, in the order of the files.
    """
    found: dict[str, Procedure] = {}
    for path in sorted(folder.glob("*.yml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, entry in document["procedures"].items():
            if name in found:
                raise Refused(f"catalog entry {name}", f"a second one in {path.name}", "one entry a procedure")
            found[name] = _procedure(name, document["section"], entry)
    return found
