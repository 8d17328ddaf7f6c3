"""The callback that every procedure runs under: refusals, locks, records, deadline, exit codes, the card."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible_collections.streamops.runbook.plugins.module_utils import catalog, commands, control_host, provenance, runs
from ansible_collections.streamops.runbook.plugins.module_utils.card import render
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.lease import Owner, controller_id
from ansible_collections.streamops.runbook.plugins.module_utils.private import check_credentials

DOCUMENTATION = """
    name: record
    type: notification
    short_description: Locks, records and ends every procedure of the runbook
    description:
      - Active for the playbooks of the project's playbooks folder, each of which needs an entry in the catalog.
      - Refuses options that would let a failing check end green, and parameters with values that are not allowed.
      - Takes a kernel lock for each resource, writes the started and the finished record, prints the card.
      - Where the inventory names a control host (runbook_lease_host), takes a lease of each resource there too, and
        leaves record and figures there (runbook_metrics_dir of that host, where an exporter reads text files).
      - Raises the exit code to 3 (refused), 4 (degraded or unreachable) or 75 (locked).
    requirements:
      - enable in ansible.cfg with callbacks_enabled
"""

PROJECT = Path(__file__).resolve().parents[6]
_PHASE = re.compile(r"^[1-4] (check|plan|act|prove)\b")
# Tasks that only steer a play; they are no work and are left out of the count of module results.
_STEERING = frozenset(
    {
        "add_host",
        "assert",
        "debug",
        "fail",
        "import_role",
        "import_tasks",
        "include_role",
        "include_tasks",
        "meta",
        "set_fact",
        "validate_argument_spec",
    }
)
# Molecule passes these always; they skip nothing of ours.
_HARMLESS_SKIP_TAGS = frozenset({"molecule-notest", "notest", "molecule-idempotence-notest"})


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "streamops.runbook.record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._run: runs.Run | None = None
        self._locks: runs.Locks | None = None
        self._keeper: control_host.ControlHost | None = None
        self._lease: control_host.Leasehold | None = None
        # Whether this run has added itself to the figures of this controller's runs.
        self._counted = False
        self._procedure: catalog.Procedure | None = None
        self._entries: dict[str, catalog.Procedure] = {}
        self._started_clock = 0.0
        self._started_awake = 0.0
        self._phase = "check"
        self._phase_clock = 0.0
        self._phases: dict[str, float] = {}
        self._results = 0
        self._failures: list[dict[str, Any]] = []
        self._fragments: dict[str, Any] = {"decisions": [], "did": [], "readings": {}}
        self._finished = threading.Event()
        self._state = Path()
        self._scratch: Path | None = None
        self._contacts: Mapping[str, Any] = {}
        self._manager: Any = None
        self._loader: Any = None
        self._alertmanager = ""

    def _active(self) -> tuple[runs.Run, catalog.Procedure]:
        if self._run is None or self._procedure is None:
            raise RuntimeError("no run has begun")
        return self._run, self._procedure

    # The start: refusals first, then the locks, then the record.

    def v2_playbook_on_start(self, playbook: Any) -> None:
        path = Path(playbook._file_name).resolve()
        if path.parent != PROJECT / "playbooks":
            return
        try:
            self._begin(path, playbook)
        except runs.Locked as error:
            self._end_early("locked", error)
        except RunbookError as error:
            self._end_early("refused", error)
        except Exception as error:  # noqa: BLE001  whatever keeps the record from beginning ends the run
            self._end_early("failed", RunbookError("the record of this run", f"{type(error).__name__}: {error}"))

    def _begin(self, path: Path, playbook: Any) -> None:
        entries = self._entries = catalog.load(PROJECT / "config" / "runbook")
        if path.stem not in entries:
            raise Refused(f"playbook {path.name}", "no entry in the catalog", "an entry in config/runbook")
        procedure = self._procedure = entries[path.stem]
        os.environ[commands.VARIABLE] = commands.options(self._sources(), PROJECT)
        play = playbook.get_plays()[0]
        manager = self._manager = play.get_variable_manager()
        self._loader = playbook._loader
        # Ansible makes hostvars only when the first play begins; the inventory's own values need them before.
        HostVars(inventory=manager._inventory, variable_manager=manager, loader=playbook._loader)
        variables = manager.get_vars(play=play, host=manager._inventory.get_host("localhost"))
        templar = Templar(loader=playbook._loader, variables=variables)
        # As the plays will see them: an extra variable may itself be a template.
        extra = {name: templar.template(text) for name, text in manager.extra_vars.items()}

        def value(name: str) -> Any:
            return templar.template(variables[name]) if name in variables else None

        self._open_record(procedure, extra, value("runbook_state_dir"), value("runbook_marker"))
        self._refuse_options()
        inventory = manager._inventory
        procedure.check_parameters(extra, self._known_names(manager, inventory))
        # First of all that is read of the inventory: its variables may be made from the hosts of these groups.
        for group in procedure.groups:
            if not inventory.get_groups_dict().get(group):
                raise Refused(
                    f"group {group} of the inventory",
                    "no host",
                    "at least one host",
                    "name its hosts in the inventory",
                )
        if unfilled := value("runbook_open"):
            # Before a lease is asked for, at an address that may be one of these.
            raise Refused(
                "inventory", "; ".join(unfilled), "what belongs to this deployment", "see docs/many-machines.md"
            )
        marker = value("runbook_marker")
        deployed = bool(marker) and Path(marker).is_file()
        if not procedure.founds and not deployed:
            raise Refused(
                "deployment",
                f"nothing deployed ({marker} is missing)",
                "a deployed pipeline",
                commands.line("site"),
            )
        self._contacts = value("runbook_notices") or {}
        self._alertmanager = value("runbook_alertmanager") or ""
        credentials = value("runbook_credentials_file")
        if credentials and deployed:
            check_credentials(Path(credentials))
        self._keeper = self._control_host(manager, inventory, value("runbook_lease_host"), extra)
        self._take_locks(procedure, extra)
        self._start_clocks(procedure)

    @staticmethod
    def _sources() -> list[str]:
        """Return the inventory's own files and folders, by their absolute paths."""
        return [str(source) for source in context.CLIARGS["inventory"] or ()]

    @staticmethod
    def _known_names(manager: Any, inventory: Any) -> set[str]:
        """Return every variable that the inventory itself defines: those an extra variable may override."""
        names: set[str] = set()
        extra, manager._extra_vars = manager._extra_vars, {}
        try:
            for host in [*inventory.get_hosts(), inventory.get_host("localhost")]:
                names |= set(manager.get_vars(host=host, include_hostvars=False))
        finally:
            manager._extra_vars = extra
        return names

    def _open_record(
        self,
        procedure: catalog.Procedure,
        extra: Mapping[str, Any],
        state: str | None,
        marker: str | None,
    ) -> None:
        if not state:
            raise Refused(
                "variable runbook_state_dir",
                "nothing",
                "the folder of the run records",
                "name it in the inventory",
            )
        check = bool(context.CLIARGS["check"])
        if not (marker and Path(marker).is_file()) and (check or not procedure.founds):
            # Nothing is deployed: a plan or a refusal must leave nothing behind there either.
            state = tempfile.mkdtemp(prefix="runbook-")
            atexit.register(self._remove_scratch, state, os.getpid())
            self._scratch = Path(state)
        elif marker and not Path(marker).is_file():
            # What founds a deployment leaves its record there before anything else: not in a stranger's folder.
            from ansible_collections.streamops.runbook.plugins.module_utils.sandbox import Sandbox

            Sandbox(Path(marker).resolve().parent).refuse_claimed()
        self._state = Path(state)
        sources = self._sources()
        run_id = runs.new_run_id(procedure.name)
        self._run = runs.Run(
            folder=self._state / "runs",
            id=run_id,
            procedure=procedure.name,
            started={
                "id": run_id,
                "procedure": procedure.name,
                "severity": procedure.severity,
                "check": check,
                "started_at": runs.now_text(),
                "pid": os.getpid(),
                "pid_start": runs.process_start(os.getpid()),
                "trigger": provenance.trigger(os.environ),
                "actor": provenance.actor(os.environ),
                "reason": str(extra.get("reason", "")),
                "parameters": runs.without_secrets(extra),
                "inventory": [os.path.relpath(source, PROJECT) for source in sources],
                **provenance.commit(PROJECT),
                "fingerprint": provenance.fingerprint(PROJECT, sources),
            },
        )
        self._run.begin()
        os.environ["RUNBOOK_RUN_ID"] = run_id
        os.environ["RUNBOOK_STARTED"] = str(self._run.started_path)
        os.environ["RUNBOOK_FINISHED"] = str(self._run.finished_path)
        os.environ["RUNBOOK_STARTED_AT"] = self._run.started["started_at"]
        os.environ["RUNBOOK_PROGRESS"] = str(self._run.progress_path)

    @staticmethod
    def _remove_scratch(folder: str, owner: int) -> None:
        # Forked workers inherit the hook; only the run itself may act on it.
        if os.getpid() == owner:
            shutil.rmtree(folder)

    def _refuse_options(self) -> None:
        arguments = context.CLIARGS
        if len(arguments["args"]) > 1:
            # Leaving at the end of the first would drop the second.
            raise Refused("playbooks of this call", "more than one", "one procedure a call")
        given = {
            "--limit": arguments["subset"],
            "--tags": set(arguments["tags"]) - {"all"},
            "--skip-tags": set(arguments["skip_tags"]) - _HARMLESS_SKIP_TAGS,
            "--start-at-task": arguments["start_at_task"],
            "--step": arguments["step"],
        }
        for option, found in given.items():
            if found:
                raise Refused(
                    f"option {option}",
                    repr(found if isinstance(found, (str, bool)) else sorted(found)),
                    "none: it would skip the check and run the rest",
                    "run the whole procedure; it acts only on what needs it",
                )

    @staticmethod
    def _control_host(
        manager: Any, inventory: Any, name: str | None, extra: Mapping[str, Any]
    ) -> control_host.ControlHost | None:
        """Return the host that keeps the leases, None where the inventory names none."""
        if not name:
            if control_host.PARAMETER in extra:
                raise Refused(
                    f"parameter {control_host.PARAMETER}",
                    "no runbook_lease_host in this inventory",
                    "an inventory with a control host",
                    "leave it out; no lease is taken here",
                )
            return None
        host = inventory.get_host(name)
        if host is None:
            raise Refused("variable runbook_lease_host", repr(name), "a host of the inventory", "correct the inventory")
        variables = manager.get_vars(host=host, include_hostvars=False)
        if not variables.get("runbook_lease_dir"):
            raise Refused(
                f"variable runbook_lease_dir of {name}",
                "nothing",
                "the folder of the leases on that host",
                "name it in the inventory",
            )
        return control_host.ControlHost(
            name,
            control_host.options(context.CLIARGS),
            os.environ,
            shows_figures=bool(variables.get("runbook_metrics_dir")),
        )

    def _take_locks(self, procedure: catalog.Procedure, extra: Mapping[str, Any]) -> None:
        run, _ = self._active()
        if run.started["check"]:
            return
        locks = self._locks = runs.Locks(self._state / "locks")
        try:
            locks.take(procedure.locks, run.id, procedure.name)
        except runs.Locked as locked:
            if "takeover" not in extra:
                raise
            runs.take_over(locked, str(extra["takeover"]))
            # The task that the ended run had in flight lets go of them when it ends.
            locks.take(procedure.locks, run.id, procedure.name, patience=60.0)
        if procedure.locks:
            # After the lock of this machine: whoever has that one knows that no task of an ended run goes on here.
            self._take_lease(procedure, extra)
            run.data["interrupted_before"] = runs.close_interrupted(run.folder)
            for left in run.data["interrupted_before"]:
                self._keep_for_control_host(left["run"])
                self._publish({**left, "status": "interrupted"})
                done = "; ".join(left["done"]) or "nothing yet"
                self._say(f"Run {left['run']} was interrupted in phase {left['phase']}; it had done: {done}.")

    def _take_lease(self, procedure: catalog.Procedure, extra: Mapping[str, Any]) -> None:
        run, _ = self._active()
        if self._keeper is None:
            return
        owner = Owner.here(run.id, procedure.name, os.environ)
        without = str(extra[control_host.PARAMETER]) if control_host.PARAMETER in extra else None
        self._lease = control_host.take(
            self._keeper, procedure.locks, owner, float(procedure.deadline), procedure.risk, without
        )
        run.data["lease"] = self._lease.as_dict()
        run.note({"phase": self._phase, "lease": run.data["lease"]})
        for line in self._lease.lines():
            self._say(line)

    def _keep_for_control_host(self, run_id: str) -> None:
        """Note that a record is to be kept on the control host too."""
        if self._lease is not None and self._state.is_dir():
            runs.Outbox(self._state / "outbox").add(run_id)

    def _return_lease(self) -> None:
        """Give the leases back, leave record and figures on the control host; neither changes how the run ends."""
        if self._keeper is None or self._run is None:
            return
        shows = self._counted and self._keeper.shows_figures
        if self._lease is None and not shows:
            return
        outbox = runs.Outbox(self._state / "outbox")
        try:
            self._keep_for_control_host(self._run.id)
            if self._lease is not None and self._lease.without:
                # It did not answer at the start: the next run that reaches it takes the record along.
                return
            # A run that acts on nothing holds no lease, and has figures all the same.
            held = self._lease or control_host.Leasehold(self._keeper, self._run.id)
            waiting = outbox.waiting(self._run.folder)
            kept, told = self._with_figures(held, waiting) if shows else held.give_back(waiting)
            outbox.sent(kept)
        except Exception as error:  # noqa: BLE001  the run has ended, and how does not depend on this
            told = [f"Leases could not be given back: {type(error).__name__}: {error}"]
        for line in told:
            self._say(line)
            self._run.note({"phase": self._phase, "lease": line})

    def _with_figures(self, held: control_host.Leasehold, records: Sequence[Path]) -> tuple[list[str], list[str]]:
        """Give back, and leave the figures of this controller's runs there as they are when it is this run's turn."""
        from ansible_collections.streamops.runbook.plugins.module_utils import run_metrics

        folder = self._state / "metrics"
        try:
            # Whoever holds a lease keeps others waiting.
            with run_metrics.turn(folder, 0 if held.fences else control_host.FIGURES_SECONDS) as mine:
                if mine:
                    with tempfile.NamedTemporaryFile(
                        "w", encoding="utf-8", prefix="runbook-", suffix=".prom"
                    ) as figures:
                        figures.write(run_metrics.labelled(folder, controller_id(os.environ)))
                        figures.flush()
                        return held.give_back(records, Path(figures.name))
            late = f"Figures on {held.host.name} are those of an earlier run: others are being left there just now"
            why = f"{late}; the next run takes these along."
        except OSError as error:
            why = f"Figures could not be left on {held.host.name}: {error}"
        kept, told = held.give_back(records) if held.fences else ([], [])
        return kept, [*told, why]

    def _start_clocks(self, procedure: catalog.Procedure) -> None:
        run, _ = self._active()
        self._started_clock = self._phase_clock = time.monotonic()
        self._started_awake = time.clock_gettime(time.CLOCK_BOOTTIME)
        if procedure.risk != "read-only":
            changed = provenance.changed_since(runs.last_completed(run.folder), run.started)
            run.data["changed_since_last_proof"] = changed
            self._say("Changed since the last proven run: " + "; ".join(changed))
        signal.signal(signal.SIGALRM, self._deadline)
        signal.alarm(procedure.deadline)
        end = datetime.now(UTC) + timedelta(seconds=procedure.deadline)
        os.environ["RUNBOOK_DEADLINE"] = end.isoformat(timespec="seconds")
        threading.Thread(target=self._follow_progress, args=(run.progress_path,), daemon=True).start()

    def _deadline(self, _signal: int, _frame: Any) -> None:
        run, procedure = self._active()
        text = f"deadline of {procedure.deadline} s passed in phase {self._phase}"
        # A lease is not given back here: the task in flight may go on for a moment, and the lease ends soon after.
        self._keep_for_control_host(run.id)
        self._close("failed", failures=[*self._failures, {"message": text}])
        left = self._lease.expires_at if self._lease is not None else ""
        lease = f"; its lease ends by itself at {left}" if left else ""
        os.write(2, f"\n{procedure.name}: {text}; record: {run.finished_path}{lease}\n".encode())
        # SIGTERM and not an exception: measured, an exception here lets late effects through.
        os.kill(os.getpid(), signal.SIGTERM)

    def _follow_progress(self, path: Path) -> None:
        position = 0
        while not self._finished.wait(0.3):
            if path.exists():
                with path.open("rb") as stream:
                    stream.seek(position)
                    text = stream.read()
                whole = text[: text.rfind(b"\n") + 1]
                position += len(whole)
                for line in whole.splitlines():
                    # os.write takes no lock that a forked worker could inherit while it is held.
                    os.write(1, b"    ... " + line + b"\n")

    def _close(self, status: str, **more: Any) -> dict[str, Any]:
        """Write the record, then end what the run left in force, tell whoever must hear of it, and note how that went."""
        run, procedure = self._active()
        record = run.finish(status, **self._collected(), **more)
        told: dict[str, Any] = {}
        if procedure.risk != "read-only" and not run.started["check"]:
            told |= self._end_silences()
        return run.add(record, told | self._publish(record))

    def _end_silences(self) -> dict[str, Any]:
        """End the silences of every run that is over: of this one, and of those that were killed before it."""
        run, _ = self._active()
        if not self._alertmanager:
            return {}
        try:
            from ansible_collections.streamops.runbook.plugins.module_utils.silences import Silencer, asking

            silencer = Silencer(self._alertmanager, ask=asking(self._contacts.get("tls")))
            ended = silencer.absent(lambda owner: runs.is_over(run.folder, owner))
        except Exception as error:  # noqa: BLE001  nothing here may change how a run ends
            return {"silences_left": f"{type(error).__name__}: {error}"}
        if ended.changed:
            return {"silences_ended": len(ended.ids)}
        # An Alertmanager that can't be asked leaves nothing in force where nothing was silenced.
        silenced = self._fragments.get("silence", {}).get("ends_at")
        return {"silences_left": ended.skipped_reason} if silenced and ended.skipped_reason else {}

    def _publish(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Give figures and notice of a run to those who watch, and return what became of it, for the record.

        That they can't be given away ends no run.
        """
        # Of its own procedure: a run that was interrupted may have been another than the one that closes its record.
        procedure = self._entries.get(str(record["procedure"]))
        if procedure is None or record.get("check") or self._scratch is not None or not self._state.is_dir():
            return {}
        try:
            # Loaded at the end of a run that is published, and not at the start of every play on this machine.
            from ansible_collections.streamops.runbook.plugins.module_utils import run_metrics
            from ansible_collections.streamops.runbook.plugins.module_utils.announcement import announce

            run_metrics.record(self._state / "metrics", record, procedure, time.time())
            self._counted = True
            delivery = asdict(announce(record, procedure, self._state / "spool", self._contacts, PROJECT))
        except Exception as error:  # noqa: BLE001  nothing here may change how a run ends
            self._say(f"Metrics or notice of this run could not be given away: {type(error).__name__}: {error}")
            delivery = {"errors": [f"{type(error).__name__}: {error}"]}
        return {"notices": delivery} if any(delivery.values()) else {}

    def _say(self, text: str) -> None:
        self._display.display(text)

    def _end_early(self, status: str, error: RunbookError) -> None:
        name = self._procedure.name if self._procedure else "playbook"
        sys.stderr.write(f"{name} {status}: {error}\n")
        if self._run is not None:
            record = self._run.finish(status, message=str(error), failures=[{"message": str(error)}])
            self._run.add(record, self._publish(record))
            if self._lease is not None:
                # A refusal is counted here; the next run that comes to its end takes its figure along.
                self._return_lease()
        sys.exit(runs.EXIT_CODES[status])

    # While it runs.

    def v2_playbook_on_play_start(self, play: Any) -> None:
        match = _PHASE.match(play.get_name())
        if self._run is None or match is None:
            return
        if time.clock_gettime(time.CLOCK_BOOTTIME) - self._started_awake > self._active()[1].deadline:
            # The alarm's clock stands still while a machine sleeps; by now the lease may be another controller's.
            self._deadline(signal.SIGALRM, None)
        self._close_phase()
        self._phase = match.group(1)
        self._run.note({"phase": self._phase, "play": play.get_name()})

    def _close_phase(self) -> None:
        now = time.monotonic()
        self._phases[self._phase] = round(self._phases.get(self._phase, 0.0) + now - self._phase_clock, 2)
        self._phase_clock = now

    def v2_runner_on_ok(self, result: Any) -> None:
        self._collect(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._collect(result)
        if self._run is not None and not ignore_errors:
            answer = result.result
            self._failures.append(
                {
                    "phase": self._phase,
                    "host": result.host.get_name(),
                    "task": result.task_name,
                    "message": str(answer.get("msg", "")),
                    "refusal": self._is_refusal(result.task.action.rsplit(".", 1)[-1], answer),
                }
            )

    @staticmethod
    def _is_refusal(action: str, answer: Mapping[str, Any]) -> bool:
        """Tell a verdict (an assertion, an error that a module of ours names) from a crash."""
        return action in ("assert", "fail", "validate_argument_spec") or any(
            key in answer for key in ("refused", "error", "runbook")
        )

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._collect(result)
        if self._run is not None:
            silent = self._fragments.setdefault("unreachable", {})
            silent.setdefault(result.host.get_name(), [])
            # Whoever judges or proves the stack says it anew; a run that ends before that names what ran there too.
            silent[result.host.get_name()] = self._services_on(result.host)

    def _services_on(self, host: Any) -> list[str]:
        variables = self._manager.get_vars(host=host, include_hostvars=False)
        return list(Templar(loader=self._loader, variables=variables).template(variables.get("host_services", [])))

    def _collect(self, result: Any) -> None:
        if self._run is None:
            return
        answer = result.result
        # A playbook may add to the record itself: set_fact with runbook_fragment.
        facts = answer.get("ansible_facts")
        if isinstance(facts, Mapping) and isinstance(facts.get("runbook_fragment"), Mapping):
            self._merge(facts["runbook_fragment"])
        if result.task.action.rsplit(".", 1)[-1] in _STEERING:
            return
        items = answer.get("results") if isinstance(answer.get("results"), list) else [answer]
        for item in items:
            if not isinstance(item, Mapping) or item.get("skipped"):
                continue
            self._results += 1
            fragment = item.get("runbook")
            if isinstance(fragment, Mapping):
                self._merge(fragment)
            # What the runtime of this target can't do, though the definition asks for it.
            for what in item.get("skipped_limits") or ():
                hosts = self._fragments.setdefault("skipped", {}).setdefault(what, [])
                if result.host.get_name() not in hosts:
                    # Sorted: they come in another order each time.
                    hosts.append(result.host.get_name())
                    hosts.sort()
            if item.get("changed"):
                self._note_deeds(result, item)

    def _note_deeds(self, result: Any, item: Mapping[str, Any]) -> None:
        run, procedure = self._active()
        host = result.host.get_name()
        deeds = [
            str(deed) if str(deed).startswith(host) else f"{host}: {deed}"
            for deed in item.get("did") or [result.task_name]
        ]
        if not context.CLIARGS["check"]:
            self._fragments["did"] += deeds
            run.note({"phase": self._phase, "did": "; ".join(deeds)})
        elif procedure.deploys:
            # A deploying procedure has no plan of its own: what its modules would do is the plan.
            self._fragments.setdefault("plan", {"lines": []})["lines"] += deeds

    def _merge(self, fragment: Mapping[str, Any]) -> None:
        run, _ = self._active()
        for key, value in fragment.items():
            if key == "decisions":
                for decision in value:
                    if decision not in self._fragments["decisions"]:
                        self._fragments["decisions"].append(decision)
            elif key == "readings":
                self._fragments["readings"].setdefault("before", value)
                self._fragments["readings"]["after"] = value
            else:
                self._fragments[key] = value
        if "plan" in fragment:
            run.note({"phase": self._phase, "plan": fragment["plan"]})

    # The end.

    def _collected(self) -> dict[str, Any]:
        self._close_phase()
        return {
            **{name: value for name, value in self._fragments.items() if name != "status"},
            "phases": self._phases,
            "seconds": round(time.monotonic() - self._started_clock, 2),
            "module_results": self._results,
        }

    def _verdict(self, stats: Any) -> str:
        run, procedure = self._active()
        check = run.started["check"]
        status = str(self._fragments.get("status", "completed"))
        if stats.failures or (self._failures and not stats.rescued):
            # A good word that was said before something failed does not count.
            if status not in ("completed", "degraded"):
                return status
            early = all(failure["phase"] in ("check", "plan") and failure["refusal"] for failure in self._failures)
            return "refused" if early and self._failures else "failed"
        acting = procedure.risk != "read-only"
        if acting and check and "plan" not in self._fragments and not procedure.deploys:
            self._failures.append({"message": "the run ended without a plan"})
            return "failed"
        if acting and not check and not self._fragments.get("proof"):
            silent = ", ".join(sorted(self._fragments.get("unreachable", {})))
            why = f"; hosts that can't be reached: {silent}" if silent else ""
            self._failures.append({"message": f"the run ended without a proof{why}"})
            return "failed"
        if stats.dark or self._fragments.get("unreachable"):
            return "degraded"
        return status

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._run is None or self._procedure is None:
            return
        self._finished.set()
        signal.alarm(0)
        try:
            code = self._end(stats)
        except Exception as error:  # noqa: BLE001  a run whose record could not be finished is no success
            sys.stderr.write(f"{self._procedure.name}: its record could not be finished: {error!r}\n")
            code = runs.EXIT_CODES["failed"]
        self._return_lease()
        if code:
            sys.exit(code)

    def _end(self, stats: Any) -> int:
        run, procedure = self._active()
        status = self._verdict(stats)
        record = self._close(status, changed=sum(stats.changed.values()), failures=self._failures)
        kept = str(run.finished_path) if self._state != self._scratch else "none: nothing is deployed yet"
        self._display.display(render(record, procedure, kept))
        return runs.EXIT_CODES[status]
