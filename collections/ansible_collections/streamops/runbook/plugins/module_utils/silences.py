"""Silences in Alertmanager (API v2) for what a run itself will cause; none outlives its run.

Monitoring that is down keeps no run from its work: then there is nothing to silence, and the outcome says so.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from ansible_collections.streamops.runbook.plugins.module_utils import tls
from ansible_collections.streamops.runbook.plugins.module_utils.alerting import COMPONENTS, WATCHDOG
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError, Refused
from ansible_collections.streamops.runbook.plugins.module_utils.notices import reason, request

AUTHOR = "runbook"
TIMEOUT_SECONDS = 3.0
_LIVE = ("active", "pending")
# The run's id stands in the comment, by which its silences are found again.
_COMMENT = re.compile(r"run (\S+): .*", re.DOTALL)
_RETRY_SECONDS = 0.5
# Alertmanager says with it that the request itself is wrong, which no waiting heals.
_BAD_REQUEST = 400

Matcher = dict[str, Any]


class Request(Protocol):
    """:func:`notices.request`, or what stands for it."""

    def __call__(self, method: str, url: str, *, timeout: float, document: Any = None) -> bytes:
        """Return the body of the answer."""


@dataclass(frozen=True)
class Outcome:
    """What was done.

    :param ids: the silences that now hold (present) or were ended (absent).
    :param skipped_reason: why Alertmanager could not be asked; empty when it could.
    """

    changed: bool
    ids: list[str] = field(default_factory=list)
    ends_at: str = ""
    skipped_reason: str = ""


def _ask(
    method: str, url: str, *, timeout: float, document: Any = None, context: ssl.SSLContext | None = None
) -> bytes:
    # Alertmanager is a neighbour: a proxy that the environment names is for the way out.
    return request(method, url, timeout=timeout, document=document, proxies={}, context=context)


def asking(files: tls.Files | None) -> Request:
    """How Alertmanager is asked.

    :param files: what the stack is trusted by and shown, where it speaks TLS.
    :raises Refused: naming the file that can't be used.
    """
    return _ask if files is None else partial(_ask, context=tls.client_context(files))


class Silencer:
    """The runbook's silences in one Alertmanager.

    :param url: of Alertmanager, such as http://127.0.77.41:9093.
    :param timeout: seconds for one request.
    """

    def __init__(
        self,
        url: str,
        *,
        ask: Request = _ask,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        timeout: float = TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = url.rstrip("/") + "/api/v2"
        self._ask = ask
        self._now = now
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep

    def present(
        self,
        run: str,
        components: Sequence[str],
        comment: str,
        ends_at: datetime,
        *,
        patience: float = 0.0,
        plan_only: bool = False,
    ) -> Outcome:
        """Silence the alerts of these components that do not fire yet, unless this run has done so; never the watchdog.

        :param run: id of the run that causes them.
        :param ends_at: when the silence ends by itself, whatever becomes of the run.
        :param patience: seconds within which an Alertmanager that can't be asked is asked again.
        :raises Refused: for a run, components or an end that make no sense.
        :raises ProbeError: when Alertmanager calls the silence itself wrong.
        """
        start = self._now()
        if not run.strip():
            raise Refused("run of the silence", "nothing", "the id of the run that causes the alerts")
        unknown = sorted(set(components) - set(COMPONENTS))
        if unknown or not components:
            raise Refused("components of the silence", ", ".join(unknown) or "none", ", ".join(COMPONENTS))
        if ends_at <= start:
            raise Refused("end of the silence", ends_at.isoformat(), "a time to come")
        component = _matcher("component", components)
        silence = {
            "comment": f"run {run}: {comment}",
            "createdBy": AUTHOR,
            "startsAt": start.isoformat(),
            "endsAt": ends_at.isoformat(),
        }

        def work() -> Outcome:
            found = [
                one for one in self._live() if one["comment"] == silence["comment"] and _has(one["matchers"], component)
            ]
            if found:
                return Outcome(False, [str(one["id"]) for one in found], found[0]["endsAt"])
            if plan_only:
                return Outcome(True, ends_at=silence["endsAt"])
            ids = [
                str(self._json("POST", "/silences", {**silence, "matchers": [component, *scope]})["silenceID"])
                for scope in self._quiet(components)
            ]
            return Outcome(True, ids, silence["endsAt"])

        end = self._clock() + patience
        while (outcome := self._or_skipped(work)).skipped_reason and self._clock() < end:
            self._sleep(_RETRY_SECONDS)
        return outcome

    def absent(self, over: Callable[[str], bool]) -> Outcome:
        """End every silence whose run is over.

        :param over: whether the run of that id has come to its end, by itself or by a kill.
        """

        def work() -> Outcome:
            owners = {str(found["id"]): _COMMENT.fullmatch(found["comment"]) for found in self._live()}
            ids = [one for one, owner in owners.items() if owner and over(owner.group(1))]
            for one in ids:
                self._ask("DELETE", f"{self._api}/silence/{one}", timeout=self._timeout)
            return Outcome(bool(ids), ids)

        return self._or_skipped(work)

    def _quiet(self, components: Sequence[str]) -> list[list[Matcher]]:
        """Return the matchers, silence by silence, of all of them that does not fire; the watchdog is in none.

        Whoever was told of an alert must hear that it is over, too. What fires on one host is silenced on the others:
        the matchers of a silence all hold at once, so each of these exceptions takes a silence of its own.
        """
        firing: dict[str, dict[str, set[str]]] = {WATCHDOG: {}}
        for found in self._json("GET", "/alerts?active=true&silenced=false"):
            labels = found["labels"]
            if labels.get("component") not in components:
                continue
            hosts = firing.setdefault(labels["alertname"], {})
            if "host" in labels:
                hosts.setdefault(labels["host"], set()).add(labels.get("service", ""))
        scopes = [[_matcher("alertname", firing, equal=False)]]
        for name, hosts in firing.items():
            if hosts:
                scopes.append([_matcher("alertname", [name]), _matcher("host", hosts, equal=False)])
            scopes += [
                [_matcher("alertname", [name]), _matcher("host", [host]), _matcher("service", services, equal=False)]
                for host, services in hosts.items()
            ]
        return scopes

    def _live(self) -> list[dict[str, Any]]:
        return [
            found
            for found in self._json("GET", "/silences")
            if found["createdBy"] == AUTHOR and found["status"]["state"] in _LIVE
        ]

    def _json(self, method: str, path: str, document: Any = None) -> Any:
        return json.loads(self._ask(method, self._api + path, timeout=self._timeout, document=document))

    @staticmethod
    def _or_skipped(work: Callable[[], Outcome]) -> Outcome:
        try:
            return work()
        except ProbeError as error:
            return Outcome(False, skipped_reason=f"Alertmanager: {reason(error)}")
        except OSError as error:
            if getattr(error, "code", None) == _BAD_REQUEST:
                raise ProbeError("silence", "Alertmanager refuses it as wrong (HTTP 400)", "a valid silence") from None
            return Outcome(False, skipped_reason=f"Alertmanager: {reason(error)}")
        except (ValueError, KeyError, TypeError) as error:
            return Outcome(False, skipped_reason=f"Alertmanager: an answer that is none of its own ({error!r})")


def _matcher(label: str, values: Iterable[str], *, equal: bool = True) -> Matcher:
    # A hyphen outside of brackets means nothing else, and people read this.
    escaped = [re.escape(value).replace(r"\-", "-") for value in sorted(set(values))]
    return {"name": label, "value": "|".join(escaped), "isRegex": True, "isEqual": equal}


def _has(found: Sequence[Matcher], wanted: Matcher) -> bool:
    # isEqual came later than the rest; an answer without it means equal.
    return any({"isEqual": True, **one} == wanted for one in found)
