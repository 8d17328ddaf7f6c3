"""Silences in Alertmanager (API v2) for what a run itself will cause; each has an end.

Monitoring that is down keeps no run from its work: then there is nothing to silence, and the outcome says so.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from ansible_collections.streamops.runbook.plugins.module_utils import tls
from ansible_collections.streamops.runbook.plugins.module_utils.alerting import COMPONENTS, WATCHDOG
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError, Refused
from ansible_collections.streamops.runbook.plugins.module_utils.notices import reason, request

AUTHOR = "runbook"
TIMEOUT_SECONDS = 3.0
_LIVE = ("active", "pending")
# Alertmanager says with it that the request itself is wrong, which no waiting heals.
_BAD_REQUEST = 400


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
    """The silences of one run.

    :param url: of Alertmanager, such as http://127.0.77.41:9093.
    :param run: the run's id; it stands in the comment, by which the silence is found again.
    """

    def __init__(
        self,
        url: str,
        run: str,
        *,
        ask: Request = _ask,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._api = url.rstrip("/") + "/api/v2"
        if not run.strip():
            raise Refused("run of the silence", "nothing", "the id of the run that causes the alerts")
        self._prefix = f"run {run}: "
        self._ask = ask
        self._now = now
        self._timeout = timeout

    def present(self, components: Sequence[str], comment: str, seconds: int, *, plan_only: bool = False) -> Outcome:
        """Silence the alerts of these components that do not fire yet, unless this run has done so; never the watchdog.

        :param seconds: until the end.
        :raises Refused: for components or a length that make no sense.
        :raises ProbeError: when Alertmanager calls the silence itself wrong.
        """
        unknown = sorted(set(components) - set(COMPONENTS))
        if unknown or not components:
            raise Refused("components of the silence", ", ".join(unknown) or "none", ", ".join(COMPONENTS))
        if seconds < 1:
            raise Refused("seconds of the silence", str(seconds), "a second or more")
        start = self._now()
        matcher = {"name": "component", "value": "|".join(sorted(set(components))), "isRegex": True, "isEqual": True}
        silence: dict[str, Any] = {
            "comment": self._prefix + comment,
            "createdBy": AUTHOR,
            "startsAt": start.isoformat(),
            "endsAt": (start + timedelta(seconds=seconds)).isoformat(),
        }

        def work() -> Outcome:
            for found in self._own():
                if found["comment"] == silence["comment"] and _has(found["matchers"], matcher):
                    return Outcome(False, [found["id"]], found["endsAt"])
            if plan_only:
                return Outcome(True, ends_at=silence["endsAt"])
            spared = {"name": "alertname", "value": "|".join(self._told()), "isRegex": True, "isEqual": False}
            answer = self._json("POST", "/silences", {**silence, "matchers": [matcher, spared]})
            return Outcome(True, [str(answer["silenceID"])], silence["endsAt"])

        return self._or_skipped(work)

    def absent(self, *, plan_only: bool = False) -> Outcome:
        """End every silence of this run that is active or about to be."""

        def work() -> Outcome:
            ids = [str(found["id"]) for found in self._own()]
            for one in ids if not plan_only else ():
                self._ask("DELETE", f"{self._api}/silence/{one}", timeout=self._timeout)
            return Outcome(bool(ids), ids)

        return self._or_skipped(work)

    def _told(self) -> list[str]:
        """The watchdog, and what fires already: whoever was told of it must hear that it is over, too."""
        firing = {found["labels"]["alertname"] for found in self._json("GET", "/alerts?active=true&silenced=false")}
        return sorted(firing | {WATCHDOG})

    def _own(self) -> list[dict[str, Any]]:
        return [
            found
            for found in self._json("GET", "/silences")
            if found["createdBy"] == AUTHOR
            and found["comment"].startswith(self._prefix)
            and found["status"]["state"] in _LIVE
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


def _has(found: Sequence[dict[str, Any]], wanted: dict[str, Any]) -> bool:
    # isEqual came later than the rest; an answer without it means equal.
    return any({"isEqual": True, **one} == wanted for one in found)
