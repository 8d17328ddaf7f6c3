"""Until when the certificates of the stack hold; see probes.py for the rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from . import tls
from .errors import Refused, RunbookError
from .monitoring import SERVICES as MONITORING
from .probes import DEPLOY, Check, Target

CHECK = "certificate.holds"
WARN_DAYS = 14.0
FAIL_DAYS = 2.0
SCOPE = ("kafka", "minio", "spark-streaming", "producer", "monitoring")

Served = Callable[[str, tls.Files, float, str], tls.Certificate]


def places(target: Target) -> dict[str, tuple[str, str]]:
    """Service and host of each port that shows a certificate, by ``host:port``."""
    return {
        tls.address_of(f"https://{place['address']}"): (place["service"], place["host"]) for place in target.secured
    }


def certificate_checks(
    target: Target,
    scope: Sequence[str] = SCOPE,
    *,
    warn_days: float = WARN_DAYS,
    fail_days: float = FAIL_DAYS,
    served: Served = tls.served,
    clock: Callable[[], float] = time.time,
) -> list[Check]:
    """Read until when each certificate holds: of every port of the scope, ours, and our authority's.

    A port that does not answer shows none, and has checks of its own.

    :param warn_days: with fewer left a certificate is said to end.
    :param fail_days: with fewer left its check fails.
    :param served: reads the certificate of a port, see :func:`.tls.served`.
    """
    files = target.tls
    if files is None:
        return []
    judge = partial(_judge, now=clock(), warn_days=warn_days, fail_days=fail_days)
    shown = {address: place for address, place in places(target).items() if _part(place[0]) in scope}

    def look(address: str) -> Check | None:
        service, host = shown[address]
        if service not in (*SCOPE, *MONITORING):
            # Something else that serves metrics, as a part of what watches.
            service = SCOPE[-1]
        try:
            return judge(service, host, f"certificate of {host}", served(address, files, target.timeout, host))
        except tls.TlsError as error:
            return judge(service, host, error.seen)
        except RunbookError as error:
            return judge(service, host, str(error))
        except OSError:
            return None

    with ThreadPoolExecutor(max_workers=max(1, len(shown))) as pool:
        # Ports of one service that show the same certificate say the same: it is said once.
        checks = list(dict.fromkeys(check for check in pool.map(look, shown) if check is not None))
    if "monitoring" in scope:
        # Of no service, and without them none can be asked.
        checks += [judge("monitoring", "", what, found) for what, found in _held(files)]
    return checks


def _part(service: str) -> str:
    """The part of the scope that a service belongs to."""
    return service if service in SCOPE else SCOPE[-1]


def _held(files: tls.Files) -> Iterator[tuple[str, tls.Certificate | None]]:
    """The certificates of this machine, by what they are; what is wrong where they can't be read."""
    try:
        for found in tls.authorities(files):
            yield f"certificate of the authority {found.name}", found
        mine = tls.own(files)
        yield f"our certificate {mine.name}", mine
    except (OSError, ValueError) as error:
        yield str(Refused("tls", f"files that can't be read ({error})", "PEM files on this machine")), None


def _judge(
    service: str,
    host: str,
    what: str,
    found: tls.Certificate | None = None,
    *,
    now: float,
    warn_days: float,
    fail_days: float,
) -> Check:
    """Judge a certificate by what is left of it; without one ``what`` says what is wrong.

    The check speaks of no host but only blames it, since no service gets well from this by a restart.
    """
    days = 0.0
    if found is not None:
        days = (found.not_after.timestamp() - now) / 86_400
        end = tls.moment(found.not_after)
        if days <= 0:
            what += f" expired on {end}"
        elif days < warn_days:
            what += f" ends in {days:.1f} days, on {end}"
        else:
            what += f" holds until {end}"
    expected = f"one that holds for {fail_days:g} days or more, of our own authority"
    blames = (host,) if host else ()
    warns = fail_days <= days < warn_days
    return Check(CHECK, service, "", days >= fail_days, what, expected, DEPLOY, blames, warns)
