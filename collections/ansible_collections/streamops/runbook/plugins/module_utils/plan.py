"""Plans: from what was seen to what will be done, in which order and why. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from . import commands
from .catalog import parse_timestamp
from .certificate_checks import CHECK as CERTIFICATE
from .errors import Refused, RunbookError
from .health import lost_brokers, lost_nodes, lost_quorum, pressing, silent_lines
from .monitoring import SERVICES as MONITORING
from .probes import DEPLOY, WORKING, Check

INTENTS = ("observe", "recover", "restart", "start", "stop")
# Producers before what they feed; combined Kafka nodes share one rank, since they stop all at once.
STOP_RANK = {
    "producer": 1,
    "spark-streaming": 2,
    "spark-worker": 3,
    "spark-master": 4,
    "kafka": 5,
    "minio": 6,
    **dict.fromkeys(MONITORING, 7),
}
# What runs the stream's tasks, where it is not the driver itself.
SPARK = ("spark-master", "spark-worker")
# The driver is spawned with Kafka and waits inside for it; only the producer waits for the gate.
LATE = ("producer",)
DEPENDS = {"spark-streaming": ("kafka", "minio", *SPARK), "producer": ("kafka",)}
# A process that is there and works no more, which does not pass by itself.
STUCK = ("suspended", "isolated")
# The exit code with which the streaming job says that starting would lose or double data (sysexits EX_CONFIG).
START_REFUSED = 78


class QuorumLost(RunbookError):
    """So many machines are out of reach that acting on the rest could not bring the pipeline back."""


def component(service: str) -> str:
    """Return what probes and alerts call the service: all that watches is one to them, and all of Spark."""
    if service in MONITORING:
        return "monitoring"
    return "spark-streaming" if service in SPARK else service


@dataclass(frozen=True)
class Action:
    """One thing to do: stop, start, restart or wait; ``why`` is what was seen."""

    service: str
    host: str
    verb: str
    why: str

    @property
    def subject(self) -> str:
        return f"{self.service} on {self.host}" if self.host else self.service

    @property
    def line(self) -> str:
        return f"{self.verb} {self.subject}: {self.why}"


@dataclass(frozen=True)
class Plan:
    """What a run will do; empty actions mean that there is nothing to do.

    :param unreachable: services by host that can't be reached; no action is ever on one of these hosts.
    :param lost: those of them that are nodes of Kafka which do not answer either.
    """

    intent: str
    actions: tuple[Action, ...]
    unreachable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    def of(self, *verbs: str) -> list[Action]:
        return [action for action in self.actions if action.verb in verbs]

    @property
    def disturbed(self) -> list[str]:
        """The components whose alerts the plan sets off: what it acts on, and what depends on that."""
        acted = {component(action.service) for action in self.actions}
        waiting = {name for name, needed in DEPENDS.items() if acted & set(needed)}
        return sorted(acted | waiting | {"runbook"})

    def as_dict(self) -> dict[str, Any]:
        """Return the plan with, for each host, what the act plays will do there (``hosts``)."""
        hosts: dict[str, dict[str, Any]] = {}
        for action in self.actions:
            if action.verb == "wait":
                continue
            row = hosts.setdefault(action.host, {"host": action.host, "stop": [], "early": [], "watch": [], "late": []})
            step = {"name": action.service, "verb": action.verb}
            if action.verb == "stop" or (self.intent == "restart" and action.verb == "restart"):
                row["stop"].append(action.service)
            if action.verb in ("start", "restart"):
                # What watches starts while Kafka boots, and keeps nobody waiting.
                when = "late" if action.service in LATE else "watch" if action.service in MONITORING else "early"
                row[when].append(step)
        return {
            "intent": self.intent,
            "actions": [asdict(action) for action in self.actions],
            "lines": [f"{number}. {action.line}" for number, action in enumerate(self.actions, 1)]
            + [f"leave out {line}: the host can't be reached" for line in silent_lines(self.unreachable)],
            "hosts": list(hosts.values()),
            "changes": any(action.verb != "wait" for action in self.actions),
            "disturbed": self.disturbed,
            # What has to be probed to see whether the waits came to their end.
            "waits": sorted({component(action.service) for action in self.of("wait")}),
            "unreachable": {host: list(names) for host, names in self.unreachable.items()},
            "lost": list(self.lost),
        }


def _order(intent: str) -> Any:
    backwards = intent in ("stop",)

    def key(action: Action) -> tuple[int, str, str]:
        rank = STOP_RANK.get(action.service, 0)
        if action.verb == "wait":
            return 100 + rank, action.service, action.host
        # What starts first is what stops last.
        return (rank if backwards else -rank), action.service, action.host

    return key


def refuse_foreign_cluster(services: Sequence[Mapping[str, Any]], checks: Sequence[Check], cluster_id: str) -> None:
    """Refuse when the live cluster, or any node's own disk, carries another id than the inventory's."""
    for check in checks:
        if check.name == "kafka.identity" and not check.healthy:
            raise Refused(
                "the live Kafka cluster",
                check.seen,
                f"cluster id {cluster_id}, as the inventory says",
                "choose the inventory of this cluster, or correct kafka_cluster_id",
            )
    for service in services:
        identity = service.get("identity")
        if service["service"] == "kafka" and identity and identity != cluster_id:
            raise Refused(
                f"the disk of kafka on {service['host']}",
                f"cluster id {identity}",
                f"cluster id {cluster_id}, as the inventory says",
                "choose the inventory of this cluster, or correct kafka_cluster_id",
            )


def refuse_ended_certificates(checks: Sequence[Check]) -> None:
    """Refuse where a certificate has ended or is about to: what is restarted with it would not be taken back."""
    ended = [check for check in checks if check.name == CERTIFICATE and not check.healthy]
    if ended:
        seen = "; ".join(dict.fromkeys(check.seen for check in ended))
        raise Refused("certificates", seen, ended[0].expected, f"{commands.line(DEPLOY)}, which issues new ones")


def _recover(
    service: Mapping[str, Any],
    failed: Sequence[Check],
    weak: frozenset[str],
    now: datetime,
    grace: Mapping[str, float],
) -> Action | None:
    name, host, state = str(service["service"]), str(service["host"]), str(service["state"])
    detail = str(service.get("detail") or state)
    if state == "suspended":
        return Action(name, host, "restart", "its process is suspended and answers nothing")
    if state == "isolated":
        return Action(name, host, "restart", f"it runs and reaches nobody: {detail}")
    if state not in WORKING:
        return Action(name, host, "start", f"{state} ({detail})" if detail != state else state)
    own = [
        check
        for check in failed
        # What a deployment helps against, a certificate that has ended, no restart does.
        if (check.service, check.host) == (name, host) and check.name != "service.running" and check.procedure != DEPLOY
    ]
    if not own:
        return None
    seen = own[0].seen
    started = parse_timestamp(service.get("started_at"))
    age = (now - started).total_seconds() if started else 0.0
    if age < grace.get(name, 60.0):
        return Action(name, host, "wait", f"started {age:.0f} s ago and may still be booting: {seen}")
    needs = DEPENDS.get(name, ())
    sick = [needed for needed in needs if needed in {check.service for check in failed}]
    if sick:
        return Action(name, host, "wait", f"{' and '.join(sick)} first: {seen}")
    short = [needed for needed in (*needs, name) if needed in weak]
    if short:
        # A client, or another node, takes up to a minute to give up a machine that is gone and to find the others.
        return Action(name, host, "wait", f"{' and '.join(short)} lost a host, and it may find the others: {seen}")
    return Action(name, host, "restart", seen)


def _decide(
    service: Mapping[str, Any],
    intent: str,
    failed: Sequence[Check],
    weak: frozenset[str],
    since: datetime,
    now: datetime,
    grace: Mapping[str, float],
    restart_monitoring: bool,
) -> Action | None:
    name, host, state = str(service["service"]), str(service["host"]), str(service["state"])
    works = state in WORKING
    if intent == "stop":
        occupied = works or state in (*STUCK, "backoff")
        return Action(name, host, "stop", f"it is {state}") if occupied else None
    if intent == "start":
        verb = "restart" if state in STUCK else "start"
        return None if works else Action(name, host, verb, f"it is {state}")
    spared = name in MONITORING and not restart_monitoring
    if intent == "restart" and not spared and works:
        started = parse_timestamp(service.get("started_at"))
        if started is not None and started >= since:
            return None
        why = f"it started {service.get('started_at')}, before {since.isoformat()}"
        return Action(name, host, "restart", why)
    if intent in ("restart", "recover"):
        return _recover(service, failed, weak, now, grace)
    return None


def make(
    services: Sequence[Mapping[str, Any]],
    checks: Sequence[Check],
    *,
    intent: str,
    since: datetime,
    now: datetime,
    grace: Mapping[str, float],
    cluster_id: str,
    restart_monitoring: bool = False,
    unreachable: Mapping[str, Sequence[str]] | None = None,
    voters: Collection[str] = (),
    brokers: Collection[str] = (),
    fewest_brokers: int = 1,
) -> Plan:
    """Make the plan of a run.

    :param services: the ServiceInfo of every service of every host that could be reached.
    :param checks: the checks of the same moment.
    :param intent: ``observe`` nothing; ``recover`` what is unhealthy; ``restart`` all that started before
        ``since``, and what is unhealthy; ``start`` what does not run; ``stop`` what runs.
    :param grace: seconds that each service may take to boot before a failing probe counts against it.
    :param restart_monitoring: with ``restart``, what watches is restarted too; else it is only repaired.
    :param unreachable: services by host that can't be reached. They are left out, and what fails for them alone
        is neither waited for nor repaired.
    :param voters: the hosts of all Kafka nodes that vote, where the run needs Kafka.
    :param brokers: the hosts of all that are brokers, where it does.
    :param fewest_brokers: in how many of them a write must be.
    :raises Refused: when acting would be wrong.
    :raises QuorumLost: when acting on what is left could not bring Kafka back.
    """
    away = unreachable or {}
    refuse_foreign_cluster(services, checks, cluster_id)
    absent = [f"{service['service']} on {service['host']}" for service in services if service["state"] == "absent"]
    if absent and intent != "observe":
        raise Refused(", ".join(absent), "nothing deployed", "a deployed service", commands.line(DEPLOY))
    if intent == "restart":
        refuse_ended_certificates(checks)
    if intent != "stop":
        back = "bring those machines back, then run this again"
        if why := lost_quorum(voters, away, checks):
            raise QuorumLost("the quorum of Kafka", why, "a majority", back)
        if why := lost_brokers(brokers, fewest_brokers, away, checks):
            raise QuorumLost("the brokers of Kafka", why, f"{fewest_brokers}, which a write must be in", back)
    failed = pressing(checks, away)
    weak = frozenset(check.service for check in checks if not check.healthy and check not in failed)
    found = (_decide(service, intent, failed, weak, since, now, grace, restart_monitoring) for service in services)
    actions = [action for action in found if action is not None]
    if intent == "recover" and not actions:
        # A cluster-wide check may fail while every node answers: replicas still catching up, say.
        actions = [Action(check.service, "", "wait", check.seen) for check in failed if not check.host]
    _refuse_refused_start(services, actions)
    lost = lost_nodes({*voters, *brokers}, away, checks)
    return Plan(intent, tuple(sorted(actions, key=_order(intent))), away, tuple(lost))


def _refuse_refused_start(services: Sequence[Mapping[str, Any]], actions: Sequence[Action]) -> None:
    """Refuse where the streaming job is all that is down and it said itself that starting would be wrong."""
    refused = {
        (service["service"], service["host"])
        for service in services
        if service["state"] == "exited" and service.get("exit_code") == START_REFUSED
    }
    acting = {(action.service, action.host) for action in actions if action.verb in ("start", "restart")}
    if acting and acting <= refused:
        name, host = sorted(acting)[0]
        raise Refused(
            f"{name} on {host}",
            f"exit code {START_REFUSED}: it refused to start, since starting would lose or double data",
            "a checkpoint that fits the table",
            f"read the last lines of the log of {name} on {host}: they name what is wrong and the way out",
        )


def unsure(plan: Plan, services: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Action]:
    """Return the restarts that rest on one answer of what runs, which whoever is only slow would give, too.

    :param services: those that the plan was made of.
    :returns: the actions by service and host.
    """
    running = {(info["service"], info["host"]) for info in services if info["state"] in WORKING}
    asked = {(action.service, action.host): action for action in plan.of("restart")}
    # Told to restart, a plan takes what runs by its age, and only of what watches by its answers.
    return {
        key: action
        for key, action in asked.items()
        if key in running and (plan.intent == "recover" or action.service in MONITORING)
    }


def confirmed(first: Plan, second: Plan, services: Sequence[Mapping[str, Any]]) -> tuple[Plan, list[dict[str, str]]]:
    """Return the second of two plans that were made one after the other, without restarts that only one of them has.

    :returns: the plan, and the decisions on what answered when it was asked again.
    """
    before, after = unsure(first, services), unsure(second, services)
    actions = [
        replace(action, verb="wait", why=f"failed to answer once: {action.why}")
        if (action.service, action.host) in after and (action.service, action.host) not in before
        else action
        for action in second.actions
    ]
    decisions = [
        {"subject": action.subject, "decision": "left", "why": f"answers when asked again; before: {action.why}"}
        for key, action in before.items()
        if key not in after
    ]
    return replace(second, actions=tuple(sorted(actions, key=_order(second.intent)))), decisions


def settle(
    plan: Mapping[str, Any], failed: Sequence[Check], seconds: float
) -> tuple[list[Action], list[dict[str, str]]]:
    """Settle the waits of a plan after a wait of ``seconds``.

    :param plan: a plan as :meth:`Plan.as_dict` gives it.
    :param failed: what still fails after the wait, apart from what hosts out of reach account for.
    :returns: what did not come back by itself and is to be restarted, and the decisions on what did.
    """
    actions = [Action(**action) for action in plan["actions"]]
    acted = {(action.service, action.host) for action in actions if action.verb != "wait"}
    late = {(check.service, check.host): check for check in failed}
    restarts, decisions = [], []
    for wait in (action for action in actions if action.verb == "wait"):
        key = (wait.service, wait.host)
        if key not in late:
            why = f"healthy again within {seconds:.1f} s without our help"
            decisions.append({"subject": wait.subject, "decision": "waited", "why": why})
        elif wait.host and key not in acted:
            restarts.append(
                Action(
                    wait.service,
                    wait.host,
                    "restart",
                    f"did not come back by itself: {late[key].seen}",
                )
            )
    return restarts, decisions
