"""Kafka's admin side: clients, topics and access rights as declared, and the gate of a roll.

Talks through kafka-python's admin client (an own JVM per question would cost seconds). Whatever
decides works on plain recorded metadata, so it is tested without a cluster.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from ansible_collections.streamops.runbook.plugins.module_utils import tls
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    RunbookError,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.progress import report

# Without a handler the library's warnings would end up in a module's output.
logging.getLogger("kafka").addHandler(logging.NullHandler())

OPERATIONS = (
    "ALL",
    "READ",
    "WRITE",
    "CREATE",
    "DELETE",
    "ALTER",
    "DESCRIBE",
    "CLUSTER_ACTION",
    "DESCRIBE_CONFIGS",
    "ALTER_CONFIGS",
    "IDEMPOTENT_WRITE",
)
RESOURCES = ("topic", "group", "cluster", "transactional_id")
PATTERNS = ("literal", "prefixed")
PROFILES = ("availability", "strict")

#: A voter that has not fetched for this long (controller.quorum.fetch.timeout.ms) is behind.
QUORUM_LAG_MS = 2000

# Whole numbers from here on. What the broker itself would refuse comes too late: by then the run has acted. No end of
# retention (-1) is for retention.bytes alone, where it is the default: with no end in time the disk would fill up.
_LEAST = {
    "retention.ms": 1,
    "retention.bytes": -1,
    "min.insync.replicas": 1,
    "segment.bytes": 1_048_576,
    "segment.ms": 1,
    "max.message.bytes": 0,
    "delete.retention.ms": 0,
}
_SWITCHES = ("unclean.leader.election.enable", "preallocate")

# A smaller value of these throws data or safety away, which no run of site.yml does by itself.
_SHRINKING = ("retention.ms", "retention.bytes", "min.insync.replicas")


class Denied(RunbookError):
    """The cluster answered and does not let this principal do it; waiting can't help."""


# Clients


def patient_client(setup_seconds: float, **configs: Any) -> Any:
    """The inner client of kafka-python, with an end to each attempt to connect.

    The library (3.0.12) gives the first connection all the time that there is, and the TLS handshake on it no end at
    all: with a machine that is paused, whose kernel takes connections, it would wait for as long as that, and ask
    nobody else. The pipeline, which stands alone, has the same in pipeline/clients.py.

    :param setup_seconds: how long a connection may take, and the handshake on it.
    :param configs: as the library hands them over.
    """
    from kafka.net.compat import KafkaNetClient
    from kafka.net.selector import NetworkSelector

    # No setting of the outer clients, but one of what they are made of.
    configs["socket_connection_setup_timeout_ms"] = int(setup_seconds * 1000)

    class PatientSelector(NetworkSelector):  # type: ignore[misc]
        """Waits for the other side of a handshake for a while, and for what comes after it as the library says."""

        def wait_read(self, fileobj: Any, timeout_at: float | None = None) -> Any:
            if timeout_at is None and isinstance(fileobj, ssl.SSLSocket) and fileobj.version() is None:
                timeout_at = time.monotonic() + setup_seconds
            return super().wait_read(fileobj, timeout_at)

        def wait_write(self, fileobj: Any, timeout_at: float | None = None) -> Any:
            # Of a connection on its way, which is given all the time there is: none would be left for another broker.
            if timeout_at is not None:
                timeout_at = min(timeout_at, time.monotonic() + setup_seconds)
            return super().wait_write(fileobj, timeout_at)

    return KafkaNetClient(net=PatientSelector(**configs), **configs)


def connect(
    bootstrap: str | Sequence[str],
    username: str,
    password: str,
    timeout: float,
    *,
    security_protocol: str = "SASL_PLAINTEXT",
    files: tls.Files | None = None,
) -> Any:
    """A connected ``KafkaAdminClient``; close it after use.

    :param bootstrap: one or more ``host:port``; a list of one asks that broker and no other,
        though later calls may be answered by any broker that it names.
    :param timeout: seconds for the connection, and for every later call.
    :param files: what the stack is trusted by, where it speaks TLS; then the security protocol is SASL_SSL.
    :raises kafka.errors.KafkaError: when no broker answers in time or the login is refused.
    :raises TlsError: when that is because of a certificate, which the library does not say.
    """
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    made: list[Any] = []

    def remembered(**configs: Any) -> Any:
        # One that takes the connection and says nothing leaves time for another one, where there is one.
        made.append(patient_client(timeout / min(2, len(servers)), **configs))
        return made[-1]

    servers = bootstrap.split(",") if isinstance(bootstrap, str) else list(bootstrap)
    milliseconds = int(timeout * 1000)
    if files is not None:
        security_protocol = "SASL_SSL"
    try:
        return KafkaAdminClient(
            bootstrap_servers=servers,
            client_id="streamops-runbook",
            security_protocol=security_protocol,
            ssl_context=None if files is None else tls.client_context(files),
            sasl_mechanism="PLAIN",
            sasl_plain_username=username,
            sasl_plain_password=password,
            request_timeout_ms=milliseconds,
            bootstrap_timeout_ms=milliseconds,
            reconnect_backoff_max_ms=500,
            kafka_client=remembered,
        )
    except BaseException as error:
        # The library starts its thread before it connects and leaves it running on failure.
        for client in made:
            with contextlib.suppress(Exception):
                client.close()
                client._manager._net.stop()  # noqa: SLF001 - there is no public way
        if files is not None and isinstance(error, KafkaError):
            tls.blame(servers, files, timeout)
        raise


def broker_answers(client: Any, broker_id: int) -> bool:
    """Whether exactly that broker lets this client log in; the client's timeout limits it.

    :param client: of :func:`connect`.
    """
    from kafka.errors import KafkaError

    try:
        client.get_broker_version_data(broker_id)
    except KafkaError:
        return False
    return True


# Topics and access rights as declared


@dataclasses.dataclass(frozen=True)
class Topic:
    """A declared topic; configs are text as Kafka writes them."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str]


@dataclasses.dataclass(frozen=True, order=True)
class Acl:
    """One allowed operation of one principal, from any host."""

    principal: str
    resource: str
    name: str
    pattern: str
    operation: str

    def __str__(self) -> str:
        shown = f"{self.name}*" if self.pattern == "prefixed" else self.name
        return f"{self.principal} {self.operation} on {self.resource} {shown}"


def parse_topics(data: Sequence[Mapping[str, Any]]) -> list[Topic]:
    """Check declared topics.

    :param data: ``[{name, partitions, replication_factor, configs: {key: value}}]``.
    :raises Refused: naming topic, field, value found and value allowed.
    """
    topics = []
    for index, entry in enumerate(data):
        name = entry.get("name")
        if not isinstance(name, str) or not name or len(name) > 249:
            raise Refused(f"topics[{index}].name", repr(name), "1 to 249 characters")
        unknown = set(entry) - {"name", "partitions", "replication_factor", "configs"}
        if unknown:
            raise Refused(f"topic {name}", f"field {sorted(unknown)[0]}", "a known field")
        numbers = {}
        for field in ("partitions", "replication_factor"):
            value = entry.get(field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise Refused(f"topic {name}.{field}", repr(value), "a whole number above 0")
            numbers[field] = value
        given = entry.get("configs") or {}
        configs = {str(key): _config_text(value) for key, value in given.items()}
        _check_configs(name, configs)
        topics.append(Topic(name, numbers["partitions"], numbers["replication_factor"], configs))
        minimum = int(configs.get("min.insync.replicas", "1"))
        if minimum > topics[-1].replication_factor:
            raise Refused(
                f"topic {name}.configs.min.insync.replicas",
                str(minimum),
                f"at most the replication factor {topics[-1].replication_factor}",
            )
    return topics


def _check_configs(topic: str, configs: Mapping[str, str]) -> None:
    for key, value in configs.items():
        if key in _LEAST and not (re.fullmatch(r"-?\d+", value) and int(value) >= _LEAST[key]):
            raise Refused(f"topic {topic}.configs.{key}", repr(value), f"a whole number from {_LEAST[key]} on")
        if key in _SWITCHES and value not in ("true", "false"):
            raise Refused(f"topic {topic}.configs.{key}", repr(value), "true or false")


def topic_problems(data: Sequence[Mapping[str, Any]], brokers: int) -> list[str]:
    """Return what keeps declared topics from being made, each in a sentence; nothing where they can be.

    :param data: as :func:`parse_topics` takes it.
    :param brokers: how many there are to hold copies.
    """
    problems = []
    for entry in data:
        try:
            (topic,) = parse_topics([entry])
        except Refused as refusal:
            problems.append(str(refusal))
            continue
        if topic.replication_factor > brokers:
            wide = Refused(
                f"topic {topic.name}.replication_factor",
                str(topic.replication_factor),
                f"at most one copy on each of {brokers} brokers",
            )
            problems.append(str(wide))
    return problems


def _config_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_acls(data: Sequence[Mapping[str, Any]]) -> list[Acl]:
    """Check declared access rights; one entry may name several operations.

    :param data: ``[{principal, resource, name, pattern: literal|prefixed, operations: [str]}]``.
    :raises Refused: naming entry, field, value found and values allowed.
    """
    acls = []
    for index, entry in enumerate(data):
        where = f"acls[{index}]"
        pattern = entry.get("pattern", "literal")
        for field, value, allowed in (
            ("resource", entry.get("resource"), RESOURCES),
            ("pattern", pattern, PATTERNS),
        ):
            if value not in allowed:
                raise Refused(f"{where}.{field}", repr(value), " | ".join(allowed))
        for field in ("principal", "name"):
            if not isinstance(entry.get(field), str) or not entry[field]:
                raise Refused(f"{where}.{field}", repr(entry.get(field)), "a name")
        for operation in entry.get("operations") or []:
            if operation not in OPERATIONS:
                raise Refused(f"{where}.operations", repr(operation), " | ".join(OPERATIONS))
            acls.append(Acl(entry["principal"], entry["resource"], entry["name"], pattern, operation))
    return acls


@dataclasses.dataclass
class Plan:
    """What is missing, and what stands there without being declared (which is left alone)."""

    create: list[Topic] = dataclasses.field(default_factory=list)
    partitions: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    configs: dict[str, dict[str, tuple[str | None, str]]] = dataclasses.field(default_factory=dict)
    acls: list[Acl] = dataclasses.field(default_factory=list)
    undeclared: list[str] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.create or self.partitions or self.configs or self.acls)

    def lines(self) -> list[str]:
        """One phrase per act, for people."""
        return (
            [f"create topic {t.name}: {t.partitions} partitions, {t.replication_factor} copies" for t in self.create]
            + [f"raise topic {name} from {old} to {new} partitions" for name, (old, new) in self.partitions.items()]
            + [
                f"set {key} of topic {name} from {old} to {new}"
                for name, values in self.configs.items()
                for key, (old, new) in values.items()
            ]
            + [f"allow {acl}" for acl in self.acls]
        )


def plan_resources(
    topics: Sequence[Topic],
    acls: Sequence[Acl],
    found_topics: Sequence[Mapping[str, Any]],
    found_configs: Mapping[str, Mapping[str, str]],
    found_acls: Iterable[Acl],
    *,
    allow_shrink: bool = False,
) -> Plan:
    """Compare what is declared with what is there. Nothing is ever deleted.

    :param found_topics: describe_topics' answer.
    :param found_configs: value by topic and key, for the declared keys.
    :param allow_shrink: let a shorter retention or a smaller min ISR pass.
    :raises Refused: where only losing or moving data would reach the declared state.
    """
    plan = Plan()
    present = {topic["name"]: topic for topic in found_topics if not topic.get("error_code")}
    for topic in topics:
        if topic.name not in present:
            plan.create.append(topic)
            continue
        partitions = present[topic.name]["partitions"]
        if len(partitions) > topic.partitions:
            raise Refused(
                f"topic {topic.name}",
                f"{len(partitions)} partitions",
                f"{topic.partitions} (declared); partitions can't be taken away",
                f"declare {len(partitions)} partitions",
            )
        if len(partitions) < topic.partitions:
            plan.partitions[topic.name] = (len(partitions), topic.partitions)
        copies = {len(partition["replica_nodes"]) for partition in partitions}
        if copies != {topic.replication_factor}:
            raise Refused(
                f"topic {topic.name}",
                f"{' and '.join(str(n) for n in sorted(copies))} copies",
                f"{topic.replication_factor} (declared)",
                "move replicas by a reassignment, then run again",
            )
        current = found_configs.get(topic.name, {})
        for key, wanted in topic.configs.items():
            have = current.get(key)
            if have == wanted:
                continue
            if not allow_shrink and key in _SHRINKING and _smaller(wanted, have):
                raise Refused(
                    f"topic {topic.name}, {key}",
                    str(have),
                    f"at most {wanted} (declared); lowering it gives data or safety up",
                    "declare the larger value, or confirm with kafka_allow_shrink=true",
                )
            plan.configs.setdefault(topic.name, {})[key] = (have, wanted)
    there = set(found_acls)
    plan.acls = sorted(set(acls) - there)
    plan.undeclared = [f"access right: {acl}" for acl in sorted(there - set(acls))] + [
        f"topic: {name}"
        for name, topic in sorted(present.items())
        if name not in {t.name for t in topics} and not topic.get("is_internal")
    ]
    return plan


def _smaller(wanted: str, have: str | None) -> bool:
    """Whether a limit gets smaller; -1 means no limit."""
    try:
        new, old = int(wanted), int(have) if have is not None else 0
    except ValueError:
        return False
    return (float("inf") if new < 0 else new) < (float("inf") if old < 0 else old)


def read_plan(client: Any, topics: Sequence[Topic], acls: Sequence[Acl], *, allow_shrink: bool = False) -> Plan:
    """Ask the cluster and compare.

    :raises Refused: see :func:`plan_resources`.
    :raises kafka.errors.KafkaError: when the cluster does not answer or does not allow it.
    """
    from kafka.admin import (
        ACLFilter,
        ACLOperation,
        ACLPermissionType,
        ACLResourcePatternType,
        ConfigResource,
        ConfigResourceType,
        ResourcePatternFilter,
        ResourceType,
    )

    found_topics = client.describe_topics()
    present = {topic["name"] for topic in found_topics if not topic.get("error_code")}
    wanted = [
        ConfigResource(ConfigResourceType.TOPIC, topic.name, sorted(topic.configs))
        for topic in topics
        if topic.name in present and topic.configs
    ]
    found_configs = {}
    if wanted:
        answer = client.describe_configs(wanted, config_filter="all").get("topic", {})
        found_configs = {
            name: {key: str(entry["value"]) for key, entry in entries.items()} for name, entries in answer.items()
        }
    everything = ACLFilter(
        principal=None,
        host=None,
        operation=ACLOperation.ANY,
        permission_type=ACLPermissionType.ANY,
        resource_pattern=ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
    )
    found_acls, _ = client.describe_acls(everything)
    return plan_resources(
        topics,
        acls,
        found_topics,
        found_configs,
        [_acl(acl) for acl in found_acls if acl.permission_type == ACLPermissionType.ALLOW],
        allow_shrink=allow_shrink,
    )


def _acl(found: Any) -> Acl:
    pattern = found.resource_pattern
    return Acl(
        principal=str(found.principal).removeprefix("User:"),
        resource=pattern.resource_type.name.lower(),
        name=pattern.resource_name,
        pattern=pattern.pattern_type.name.lower(),
        operation=found.operation.name,
    )


def apply_plan(client: Any, plan: Plan, timeout: float) -> None:
    """Do what the plan says and wait until every new partition has a leader.

    :param timeout: seconds for each wait.
    :raises ServiceError: naming what Kafka refused and why.
    :raises kafka.errors.KafkaError: when the cluster does not answer.
    """
    from kafka.admin import (
        ACL,
        ACLOperation,
        ACLPermissionType,
        ACLResourcePatternType,
        ConfigResource,
        ConfigResourceType,
        ResourcePattern,
        ResourceType,
    )
    from kafka.errors import TopicAlreadyExistsError

    if plan.create:
        wanted = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication_factor,
                "configs": dict(topic.configs),
            }
            for topic in plan.create
        }
        with contextlib.suppress(TopicAlreadyExistsError):
            # A retry after a lost answer; the next reading compares it again.
            client.create_topics(wanted)
    if plan.partitions:
        client.create_partitions({name: new for name, (_, new) in plan.partitions.items()})
    touched = [topic.name for topic in plan.create] + list(plan.partitions)
    if touched:
        client.wait_for_topics(touched, timeout_ms=int(timeout * 1000))
    if plan.configs:
        answer = client.alter_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, name, {key: new for key, (_, new) in values.items()})
                for name, values in plan.configs.items()
            ],
            raise_on_unknown=False,
            incremental=True,
        )
        for name, result in answer.get("topic", {}).items():
            if result != "OK":
                raise ServiceError(f"configs of topic {name}", str(result), "accepted configs")
    if plan.acls:
        answer = client.create_acls(
            [
                ACL(
                    principal=f"User:{acl.principal}",
                    host="*",
                    operation=ACLOperation[acl.operation],
                    permission_type=ACLPermissionType.ALLOW,
                    resource_pattern=ResourcePattern(
                        ResourceType[acl.resource.upper()],
                        acl.name,
                        ACLResourcePatternType[acl.pattern.upper()],
                    ),
                )
                for acl in plan.acls
            ]
        )
        if answer["failed"]:
            raise ServiceError("access rights", str(answer["failed"][0]), "accepted rights")


def ensure(
    factory: Callable[[], Any],
    topics: Sequence[Topic],
    acls: Sequence[Acl],
    *,
    deadline: float,
    check: bool = False,
    allow_shrink: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Plan:
    """Wait for the cluster and bring it to the declared state.

    A cluster that is just starting refuses for a while (no controller yet, too few brokers for
    the copies): that is retried with a fresh client until the deadline, with progress.

    :param factory: makes a connected client, see :func:`connect`.
    :param deadline: seconds until DeadlineExceeded.
    :returns: what was (under ``check`` would be) done; empty when nothing differed.
    :raises Refused: where the declared state can't be reached without loss.
    :raises Denied: when the principal may not do it.
    :raises TlsError: when it can't be reached because of a certificate.
    :raises DeadlineExceeded: with the last thing seen.
    """
    from kafka import errors

    limit = clock() + deadline
    told = clock()
    done: list[Plan] = []
    while True:
        try:
            with contextlib.closing(factory()) as client:
                plan = read_plan(client, topics, acls, allow_shrink=allow_shrink)
                if not plan or check:
                    return _merged([*done, plan])
                apply_plan(client, plan, max(1.0, limit - clock()))
                # What was written must be readable: the next round finds nothing to do.
                done.append(plan)
                seen = f"still to do after it was done: {plan.lines()[0]}"
        except (errors.SaslAuthenticationFailedError, errors.AuthorizationError) as error:
            raise Denied("Kafka", _said(error), "a principal that may administer it") from error
        except errors.KafkaError as error:
            seen = _said(error)
        if clock() > limit:
            raise DeadlineExceeded(
                "Kafka",
                f"{seen} for {deadline:g} s",
                "a cluster that can be administered",
                "health-check (a refused login looks like no answer: compare credentials.json)",
            )
        if clock() - told > 5:
            told = clock()
            report(f"waiting for Kafka: {seen}")
        sleep(0.5)


def _merged(plans: Sequence[Plan]) -> Plan:
    whole = Plan(undeclared=plans[-1].undeclared)
    for plan in plans:
        whole.create += [topic for topic in plan.create if topic not in whole.create]
        whole.partitions.update(plan.partitions)
        whole.configs.update(plan.configs)
        whole.acls += [acl for acl in plan.acls if acl not in whole.acls]
    return whole


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().rstrip(":")


# The gate of a roll


class View(TypedDict):
    """Recorded metadata that the gate judges.

    ``topics`` is describe_topics' answer, ``min_isr`` the value by topic, ``quorum`` the one
    partition of describe_metadata_quorum (leader_id, current_voters), ``brokers`` those of
    describe_cluster (broker_id, is_fenced), ``moving`` the number of reassignments in flight.
    """

    topics: Sequence[Mapping[str, Any]]
    min_isr: Mapping[str, int]
    quorum: Mapping[str, Any]
    brokers: Sequence[Mapping[str, Any]]
    moving: int


@dataclasses.dataclass
class Gate:
    """The gate's answer; ``reasons`` is empty when it is open."""

    reasons: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def allowed(self) -> bool:
        """Whether the node may be stopped."""
        return not self.reasons


def read_view(client: Any) -> View:
    """Read all that the gate needs, fresh.

    :raises kafka.errors.KafkaError: when the cluster does not answer.
    """
    from kafka.admin import ConfigResource, ConfigResourceType

    topics = client.describe_topics()
    names = [topic["name"] for topic in topics if not topic.get("error_code")]
    min_isr = {}
    if names:
        answer = client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, ["min.insync.replicas"]) for name in names],
            config_filter="all",
        )
        min_isr = {
            name: int(entries["min.insync.replicas"]["value"]) for name, entries in answer.get("topic", {}).items()
        }
    return View(
        topics=topics,
        min_isr=min_isr,
        quorum=client.describe_metadata_quorum()["topics"][0]["partitions"][0],
        brokers=client.describe_cluster()["brokers"],
        moving=len(client.list_partition_reassignments()),
    )


def roll_gate(node: int, view: View, nodes: Sequence[int], profile: str = "availability") -> Gate:
    """Decide whether stopping ``node`` now keeps every partition writable, and the quorum.

    A node that is a broker alone has no vote, one that is a controller alone no partition.

    ``availability`` asks only that, so that a repair is not blocked by the damage it repairs;
    ``strict``, for planned work, also wants everything in sync and nothing moving.

    :param nodes: ids of all brokers that the inventory names.
    """
    gate = Gate()
    _gate_partitions(gate, node, view)
    _gate_quorum(gate, node, view)
    if profile == "strict":
        _gate_strict(gate, view, nodes)
    return gate


def _partitions(view: View) -> Iterable[tuple[str, Mapping[str, Any], int]]:
    """Name, partition and effective min ISR of every partition, internal topics included."""
    for topic in view["topics"]:
        if topic.get("error_code"):
            continue
        for partition in topic["partitions"]:
            # A min ISR above the number of copies can't be meant; Kafka's own tools count it raw.
            minimum = min(view["min_isr"].get(topic["name"], 1), len(partition["replica_nodes"]))
            yield f"{topic['name']}-{partition['partition_index']}", partition, minimum


def _gate_partitions(gate: Gate, node: int, view: View) -> None:
    for name, partition, minimum in _partitions(view):
        replicas, in_sync = partition["replica_nodes"], partition["isr_nodes"]
        if node not in replicas:
            continue
        if len(replicas) <= minimum:
            gate.warnings.append(f"{name} will pause: {len(replicas)} copies, min ISR {minimum}")
        elif len(in_sync) < minimum:
            # Even out of sync, this node might be the first to catch up.
            gate.reasons.append(f"{name} has {len(in_sync)} in sync, below min ISR {minimum}")
        elif len(in_sync) == minimum and node in in_sync:
            gate.reasons.append(f"{name} would fall below min ISR {minimum} (in sync: {in_sync})")


def _gate_quorum(gate: Gate, node: int, view: View) -> None:
    quorum = view["quorum"]
    voters = [voter["replica_id"] for voter in quorum["current_voters"]]
    leader = quorum["leader_id"]
    if leader < 0 or leader not in voters:
        gate.reasons.append("the quorum has no leader")
        return
    if node not in voters:
        return
    if len(voters) == 1:
        gate.warnings.append("the only controller: the cluster stands still meanwhile")
        return
    rest = [voter for voter, caught_up in _caught_up(view).items() if caught_up and voter != node]
    needed = (len(voters) + 2) // 2 if len(voters) > 2 else 1
    if len(rest) < needed:
        gate.reasons.append(f"only controllers {rest} would be caught up, {needed} are needed of {len(voters)}")


def _gate_strict(gate: Gate, view: View, nodes: Sequence[int]) -> None:
    for name, partition, _ in _partitions(view):
        if partition["leader_id"] < 0:
            gate.reasons.append(f"{name} is offline")
        elif len(partition["isr_nodes"]) < len(partition["replica_nodes"]):
            gate.reasons.append(f"{name} is under-replicated")
    live = {broker["broker_id"] for broker in view["brokers"] if not broker.get("is_fenced")}
    missing = sorted(set(nodes) - live)
    if missing:
        gate.reasons.append(f"brokers {missing} are not in service")
    if view["moving"]:
        gate.reasons.append(f"{view['moving']} reassignments are in flight")


def _caught_up(view: View) -> dict[int, bool]:
    """Whether each voter has what the quorum's leader has; without a leader nobody has."""
    voters = {voter["replica_id"]: voter["last_caught_up_timestamp"] for voter in view["quorum"]["current_voters"]}
    leader = view["quorum"]["leader_id"]
    return {
        voter: leader in voters and (voter == leader or voters[leader] - moment < QUORUM_LAG_MS)
        for voter, moment in voters.items()
    }


def back_gate(node: int, view: View, controllers: Collection[int] = ()) -> Gate:
    """Decide whether a restarted node carries its share again: registered, in every ISR, voting.

    :param controllers: ids of the nodes that are controllers alone: they register as no broker and hold no copy.
    """
    gate = Gate()
    live = {broker["broker_id"] for broker in view["brokers"] if not broker.get("is_fenced")}
    if node not in live and node not in controllers:
        gate.reasons.append(f"broker {node} is not in service")
    behind = [
        name
        for name, partition, _ in _partitions(view)
        if node in partition["replica_nodes"] and node not in partition["isr_nodes"]
    ]
    if behind:
        gate.reasons.append(f"broker {node} is not in sync in {len(behind)} partitions")
    caught_up, leader = _caught_up(view), view["quorum"]["leader_id"]
    if leader not in caught_up:
        gate.reasons.append("the quorum has no leader")
    elif node in controllers and node not in caught_up:
        gate.reasons.append(f"controller {node} has no vote in the quorum")
    elif not caught_up.get(node, True):
        gate.reasons.append(f"controller {node} is behind its leader {leader}")
    return gate


def roll_order(nodes: Sequence[int], view: View, controllers: Collection[int] = ()) -> list[int]:
    """The order of a roll: nodes out of service first, the active controller last.

    :param controllers: see :func:`back_gate`.
    """
    live = {broker["broker_id"] for broker in view["brokers"] if not broker.get("is_fenced")}
    live |= {node for node, caught_up in _caught_up(view).items() if caught_up and node in controllers}
    leader = view["quorum"]["leader_id"]
    return sorted(nodes, key=lambda node: (node == leader, node in live, node))


def not_preferred(view: View) -> dict[str, list[int]]:
    """Partitions by topic that are led by another broker than their first copy's, which is in sync."""
    found: dict[str, list[int]] = {}
    for topic in view["topics"]:
        for partition in topic["partitions"] if not topic.get("error_code") else ():
            first = partition["replica_nodes"][0]
            if partition["leader_id"] != first and first in partition["isr_nodes"]:
                found.setdefault(topic["name"], []).append(partition["partition_index"])
    return found


def elect_preferred(factory: Callable[[], Any], view: View) -> bool:
    """Let the preferred leaders lead again, so that a roll does not pile all work on one broker.

    :returns: whether there was something to move.
    :raises ServiceError: when the cluster does not do it.
    """
    from kafka.errors import KafkaError

    wanted = not_preferred(view)
    if not wanted:
        return False
    try:
        with contextlib.closing(factory()) as client:
            client.elect_leaders(0, wanted, raise_errors=True)
    except KafkaError as error:
        raise ServiceError("preferred leaders", _said(error), "an election") from error
    return True


def wait_gate(
    factory: Callable[[], Any],
    judge: Callable[[View], Gate],
    *,
    what: str,
    deadline: float,
    polls: int = 3,
    interval: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Gate:
    """Poll until the gate was open ``polls`` times in a row.

    A cluster that does not answer counts as closed, never as open.

    :param what: what is waited for, for messages.
    :raises DeadlineExceeded: with the last reasons.
    :raises TlsError: when the cluster can't be reached because of a certificate.
    """
    from kafka.errors import KafkaError

    limit = clock() + deadline
    told = clock()
    good = 0
    while True:
        try:
            with contextlib.closing(factory()) as client:
                gate = judge(read_view(client))
        except KafkaError as error:
            gate = Gate(reasons=[_said(error)])
        good = good + 1 if gate.allowed else 0
        if good >= polls:
            return gate
        if clock() > limit:
            raise DeadlineExceeded(
                what,
                "; ".join(gate.reasons[:3]) or f"only {good} good polls",
                f"{polls} good polls in a row within {deadline:g} s",
                "kafka-status",
            )
        if not gate.allowed and clock() - told > 5:
            told = clock()
            report(f"{what}: {gate.reasons[0]}")
        sleep(interval)
