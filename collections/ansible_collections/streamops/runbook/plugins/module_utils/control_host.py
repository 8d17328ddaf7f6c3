"""The control host as a run sees it: its leases taken at the start, given back at the end, through Ansible itself.

Whoever runs a procedure reaches the control host as the inventory says, so the module ``lease`` is run there by
the command ``ansible`` in a process of its own, with the inventory and the options of the run. Without a lease a
procedure that could disturb is refused: it can't be told whether another controller acts at this moment. The one
way around is to name the dead host, and it is open only while that host does not answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import Refused, RunbookError, ServiceError
from .lease import Owner, controller_id
from .runs import Locked, age_text

MARGIN_SECONDS = 120.0
"""A lease lasts so much longer than the deadline: the task in flight when a run is ended may still have effects."""

FIGURES_SECONDS = 10
"""For a call that gives no lease back: what it is worth to a run that only reads."""

PARAMETER = "without_lease"
_LIMIT_SECONDS = 60
_GRACE_SECONDS = 5
_TIMED_OUT = (124, 137)
_UNREACHABLE = 4
_FAILED = 2
# Options of ansible-playbook that say how hosts are reached and secrets are read, by their name in Ansible.
_FORWARDED = {
    "remote_user": "--user",
    "private_key_file": "--private-key",
    "connection": "--connection",
    "ssh_common_args": "--ssh-common-args",
    "ssh_extra_args": "--ssh-extra-args",
    "connection_password_file": "--connection-password-file",
    "become_password_file": "--become-password-file",
    "become_method": "--become-method",
    "become_user": "--become-user",
}
_FORWARDED_LISTS = {
    "inventory": "--inventory",
    "vault_ids": "--vault-id",
    "vault_password_files": "--vault-password-file",
    "extra_vars": "--extra-vars",
}


class Unreachable(RunbookError):
    """The control host gave no answer."""


class LeaseHeld(Locked):
    """A run of another controller, or of this one that still lives, holds a lease.

    :param lease: the lease as the module returns it.
    """

    def __init__(self, lease: Mapping[str, Any], host: str, here: str) -> None:
        owner = lease["owner"]
        own = owner["controller"] == here
        where = "this controller" if own else f"controller {owner['controller']}"
        self.resource = str(lease["resource"])
        self.holder = None
        RunbookError.__init__(
            self,
            f"lease {lease['resource']} on {host}",
            f"held by run {owner['run']} of {where} for {age_text(float(lease['age']))}",
            "a free lease",
            f"wait for it, or end it {'where it was started' if own else 'on that controller'} with "
            f"-e takeover={owner['run']}; if it was killed, the next run there takes the lease over, and anybody may "
            f"from {lease['expires_at']} on",
        )


def options(arguments: Mapping[str, Any]) -> list[str]:
    """Return the options of the run's own command line that the command for the control host needs too.

    :param arguments: Ansible's CLIARGS.
    """
    found = []
    for name, option in _FORWARDED_LISTS.items():
        for value in arguments.get(name) or ():
            found += [option, str(value)]
    for name, option in _FORWARDED.items():
        # Ansible has a default for some of these, which it finds again by itself.
        if arguments.get(name):
            found += [option, str(arguments[name])]
    if arguments.get("become"):
        found.append("--become")
    return found


class ControlHost:
    """The host that keeps the leases.

    :param name: its name in the inventory.
    :param options: see :func:`options`.
    :param environment: of the run.
    :param execute: runs a program; as :func:`subprocess.run`.
    :param limit: seconds after which a call is ended and the host counts as one that does not answer.
    :param shows_figures: whether an exporter there reads text files (its variable ``runbook_metrics_dir``).
    """

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        environment: Mapping[str, str],
        execute: Callable[..., Any] = subprocess.run,
        limit: int = _LIMIT_SECONDS,
        *,
        shows_figures: bool = False,
    ) -> None:
        self.name = name
        self.shows_figures = shows_figures
        self._options = list(options)
        self._environment = dict(environment)
        self._execute = execute
        self._limit = limit

    def call(
        self,
        state: str,
        records: Sequence[Path] = (),
        figures: Path | None = None,
        limit: int | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Run the module there.

        :param records: files whose contents become the parameter ``records``.
        :param figures: a file of this controller's figures, which an exporter there is to serve.
        :param limit: seconds after which it is ended, where they are not the host's own.
        :returns: the module's answer, also that it failed because a lease is ``held``.
        :raises Unreachable: no answer.
        :raises ServiceError: an answer, and it says that leases can't be kept there.
        """
        # The folder is a variable of that host, so that it may be another's than this one's.
        arguments: dict[str, Any] = {"state": state, "folder": "{{ runbook_lease_dir }}", **parameters}
        environment = {
            **self._environment,
            # JSON is wanted, and no callback of a procedure.
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "0",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_VERBOSITY": "0",
        }
        if records:
            # Looked up and not written here: what a lookup returns is never taken for a template, and is not limited.
            environment["RUNBOOK_RECORDS"] = json.dumps([str(path) for path in records])
            arguments["records"] = (
                "{{ query('ansible.builtin.file', *(lookup('ansible.builtin.env', 'RUNBOOK_RECORDS') | from_json)) }}"
            )
        if figures is not None:
            environment["RUNBOOK_FIGURES"] = str(figures)
            text = "lookup('ansible.builtin.file', lookup('ansible.builtin.env', 'RUNBOOK_FIGURES'), rstrip=false)"
            arguments["figures"] = {
                "folder": "{{ runbook_metrics_dir }}",
                "controller": controller_id(self._environment),
                "text": f"{{{{ {text} }}}}",
            }
        # Without it a connection that hangs would keep the run from beginning, or from ending.
        seconds = self._limit if limit is None else limit
        command = ["timeout", "-k", str(_GRACE_SECONDS), str(seconds), sys.executable, "-m", "ansible", "adhoc"]
        command += [self.name, *self._options, "-m", "streamops.runbook.lease", "-a", json.dumps(arguments)]
        done = self._execute(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode in _TIMED_OUT:
            raise Unreachable(f"control host {self.name}", f"no answer within {seconds} s", "an answer")
        return self._answer(int(done.returncode), str(done.stdout), str(done.stderr))

    def _answer(self, code: int, stdout: str, stderr: str) -> dict[str, Any]:
        _, arrow, text = stdout.partition(" => ")
        try:
            answer = json.JSONDecoder().raw_decode(text.strip())[0] if arrow else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            last = (stderr.strip().splitlines() or stdout.strip().splitlines() or ["no output"])[-1]
            raise ServiceError(
                f"control host {self.name}", f"exit code {code}: {last}", "an answer of its module lease"
            )
        said = str(answer.get("msg", "")).strip().removeprefix("Task failed: ")
        if code == _UNREACHABLE or answer.get("unreachable"):
            raise Unreachable(f"control host {self.name}", said or "unreachable", "an answer")
        if code != 0 and not answer.get("held"):
            raise ServiceError(f"control host {self.name}", said or f"exit code {code}", "a folder of leases")
        return answer


@dataclass
class Leasehold:
    """What a run holds on the control host.

    :param fences: fencing number by resource; empty where the run goes on without a lease.
    :param left: the leases that others had left behind.
    :param without: why there is no lease.
    """

    host: ControlHost
    run: str
    fences: dict[str, int] = field(default_factory=dict)
    expires_at: str = ""
    left: list[dict[str, Any]] = field(default_factory=list)
    without: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what the run's record keeps of it."""
        if self.without:
            return {"host": self.host.name, "without": self.without}
        return {
            "host": self.host.name,
            "fences": self.fences,
            "expires_at": self.expires_at,
            "left": [
                {
                    "resource": lease["resource"],
                    **lease["owner"],
                    "acquired_at": lease["acquired_at"],
                    "why": lease["why"],
                }
                for lease in self.left
            ],
        }

    def lines(self) -> list[str]:
        """Return what a person must know of it at the start."""
        if self.without:
            return [
                f"No lease is held on {self.host.name}: {self.without}. "
                "Nothing keeps another controller from acting at the same time."
            ]
        return [
            f"Lease {lease['resource']} was left by run {lease['owner']['run']} of controller "
            f"{lease['owner']['controller']}: {lease['why']}."
            for lease in self.left
        ]

    def give_back(self, records: Sequence[Path], figures: Path | None = None) -> tuple[list[str], list[str]]:
        """Give the leases back and leave records and figures there, in one call; a short one where there is no lease.

        :param records: finished records.
        :param figures: see :meth:`ControlHost.call`.
        :returns: the ids of the records that are kept there, and what a person must know.
        """
        limit = None if self.fences else FIGURES_SECONDS
        try:
            answer = self.host.call("released", records, figures, limit, run=self.run, fences=self.fences)
        except RunbookError as error:
            what = "Leases, records and figures" if self.fences else "Records and figures"
            lost = f"; the lease ends by itself at {self.expires_at}" if self.fences else ""
            return [], [f"{what} on {self.host.name} are as they were: {error}{lost}"]
        told = [f"{sentence}; it was left alone." for sentence in answer.get("foreign", ())]
        return list(answer.get("kept", ())), told + list(answer.get("record_errors", ()))


def take(
    host: ControlHost,
    resources: Sequence[str],
    owner: Owner,
    deadline: float,
    risk: str,
    without: str | None = None,
) -> Leasehold:
    """Take the leases of a run, or say why it may go on without.

    :param deadline: of the procedure, in seconds.
    :param risk: of the procedure; what is ``safe`` goes on without a lease where the host does not answer.
    :param without: the value of the parameter ``without_lease``, None when it was not given.
    :raises LeaseHeld: another run holds one.
    :raises Refused: no lease can be had and none may be left out.
    """
    if without is not None:
        return _go_without(host, resources, owner, without)
    seconds = deadline + MARGIN_SECONDS
    wanted = sorted(resources)

    def ask(gone: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        return host.call("taken", resources=wanted, owner=asdict(owner), seconds=seconds, gone=list(gone))

    try:
        answer = ask()
        gone = [
            {"resource": lease["resource"], "fence": lease["fence"]}
            for lease in answer.get("held", ())
            if Owner.parse(lease["owner"]).gone(owner)
        ]
        if gone:
            # Only here can be seen that those processes are gone; there it is decided by their fencing numbers.
            answer = ask(gone)
    except Unreachable as error:
        if risk in ("disruptive", "destructive"):
            raise Refused(
                error.thing,
                error.found,
                f"leases of {', '.join(wanted)} there, so that no other controller acts at the same time",
                f"bring {host.name} back; if it stays dead, and no other controller is at work, "
                f"-e {PARAMETER}={host.name}",
            ) from None
        return Leasehold(host, owner.run, without=error.found)
    except ServiceError as error:
        raise Refused(error.thing, error.found, error.expected, f"look at runbook_lease_dir on {host.name}") from None
    if answer.get("held"):
        raise LeaseHeld(answer["held"][0], host.name, owner.controller)
    leases = answer["leases"]
    return Leasehold(
        host,
        owner.run,
        {lease["resource"]: int(lease["fence"]) for lease in leases},
        str(leases[0]["expires_at"]),
        list(answer.get("left", ())),
    )


def _go_without(host: ControlHost, resources: Sequence[str], owner: Owner, without: str) -> Leasehold:
    """Let a run go on without a lease, if the host that it names is the control host and does not answer."""
    if without != host.name:
        raise Refused(
            f"parameter {PARAMETER}", repr(without), f"the name of the control host, {host.name}", "repeat that name"
        )
    try:
        host.call("read", resources=sorted(resources))
    except Unreachable as error:
        return Leasehold(host, owner.run, without=f"{error.found} (-e {PARAMETER})")
    except ServiceError as error:
        found = f"{host.name} is there ({error.found})"
    else:
        found = f"{host.name} answers"
    raise Refused(f"parameter {PARAMETER}", found, "a control host that does not answer", f"leave {PARAMETER} out")
