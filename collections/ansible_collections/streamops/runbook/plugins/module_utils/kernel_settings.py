"""Settings of the kernel that services want of their machine: told at once, kept for the next boot, never forced.

A machine that shares its kernel with others (a container) can't set most of them. That is no failure of a deployment:
what can't be set is told with its reason, and only what a service can't do without is refused.
Nothing here needs more than Python itself, because it runs on hosts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import write_atomic

#: Names as sysctl takes them; with a slash or two dots in it, a name would lead to another file.
NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+")
VALUE = re.compile(r"-?[0-9]+( -?[0-9]+)*")
_HEAD = "# Written by the runbook; change the inventory and run site.yml\n"


@dataclasses.dataclass
class Settled:
    """What became of the settings.

    :param did: one phrase per act; under a plan what would be done.
    :param skipped: one phrase for each setting that this machine can't have, with the reason.
    """

    did: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)


def settle(
    wanted: Mapping[str, object],
    required: Collection[str],
    kept: Path,
    kernel: Path = Path("/proc/sys"),
    *,
    plan_only: bool = False,
) -> Settled:
    """Bring the running kernel to the wanted settings, and keep them in a file for the next boot.

    Kept is only what the kernel has: a boot would complain of anything else, each time.

    :param wanted: whole numbers, or several as one text, by name.
    :param required: those names without which the services can't run.
    :param kept: a file that the next boot reads.
    :param kernel: where the kernel shows its settings.
    :raises Refused: naming a setting that is none, or one that is required and can't be had; nothing is set then.
    :raises ServiceError: the file can't be written.
    """
    settings = {name: _value(name, value) for name, value in sorted(wanted.items())}
    if unknown := sorted(set(required) - set(settings)):
        raise Refused("service_sysctls_required", unknown[0], f"one of {', '.join(settings) or 'no settings'}")
    settled = Settled()
    found = {name: _read(kernel, name) for name in settings}
    differing = [name for name in settings if found[name] != settings[name]]
    # All that is required is known to be possible before the first one is set.
    reasons = {name: _reason(kernel, name) for name in differing}
    for name in required:
        if reasons.get(name):
            raise _refused(name, found[name], settings[name], reasons[name])
    for name in differing:
        reason = reasons[name]
        if not reason and not plan_only:
            reason = _set(kernel, name, settings[name])
            if reason and name in required:
                raise _refused(name, found[name], settings[name], reason)
        if reason:
            if not plan_only and (told := _read(kernel, name)) != found[name]:
                # It took another value than it was given.
                settled.did.append(f"set {name} from {found[name]} to {told}")
            here = f", here it is {found[name]}" if found[name] is not None else ""
            settled.skipped.append(f"sysctl {name}={settings[name]}: {reason}{here}")
            del settings[name]
        else:
            settled.did.append(f"set {name} from {found[name]} to {settings[name]}")
    _keep(kept, settings, settled, plan_only=plan_only)
    return settled


def _value(name: str, value: object) -> str:
    if not NAME.fullmatch(name):
        raise Refused("service_sysctls", repr(name), "names as vm.max_map_count")
    text = " ".join(str(value).split())
    if isinstance(value, bool) or not VALUE.fullmatch(text):
        raise Refused(f"service_sysctls.{name}", repr(value), "a whole number, or several with blanks between them")
    return text


def _place(kernel: Path, name: str) -> Path:
    return kernel / name.replace(".", "/")


def _read(kernel: Path, name: str) -> str | None:
    try:
        return " ".join(_place(kernel, name).read_text().split())
    except OSError:
        return None


def _reason(kernel: Path, name: str) -> str:
    """Why the setting can't be changed as far as can be seen without a change; empty where it can."""
    place = _place(kernel, name)
    try:
        # Opened and closed: a kernel changes nothing before it is told a value.
        with place.open("r+b", buffering=0):
            return ""
    except FileNotFoundError:
        return "this kernel has no such setting"
    except OSError as error:
        return f"this machine may not change it ({error.strerror})"


def _set(kernel: Path, name: str, value: str) -> str:
    try:
        with _place(kernel, name).open("r+b", buffering=0) as stream:
            stream.write(value.encode())
    except OSError as error:
        return f"the kernel does not take it ({error.strerror})"
    told = _read(kernel, name)
    return "" if told == value else f"the kernel took {told} instead"


def _refused(name: str, found: str | None, wanted: str, reason: str) -> Refused:
    return Refused(
        f"sysctl {name}",
        f"{found if found is not None else 'nothing'}; {reason}",
        f"{wanted}, which service_sysctls_required names",
        "set it on the machine that has this kernel, or take the name from service_sysctls_required",
    )


def _keep(kept: Path, settings: Mapping[str, str], settled: Settled, *, plan_only: bool) -> None:
    content = _HEAD + "".join(f"{name} = {value}\n" for name, value in settings.items()) if settings else ""
    try:
        there = kept.read_text() if kept.exists() else ""
        if there == content:
            return
        settled.did.append(f"{'write' if content else 'remove'} {kept}")
        if plan_only:
            return
        if content:
            write_atomic(kept, content, 0o644)
        else:
            kept.unlink()
    except OSError as error:
        raise ServiceError(str(kept), error.strerror or str(error), "a file that can be written") from error
