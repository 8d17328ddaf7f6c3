"""Probes: each asks one component one question, within a timeout, and returns checks; none changes anything.

A probe never raises for a sick component: what it saw is the answer. Every check says which service
(and host) it speaks of, so that a plan can act on it.
"""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from . import tls
from .errors import RunbookError

REPAIR = "emergency-restart"
# A process that is there and can work.
WORKING = ("running", "starting")
# What helps where no restart does: deploying issues certificates that are missing or have ended.
DEPLOY = "site"


@dataclass(frozen=True)
class Check:
    """One answered question.

    :param name: what was asked, ``component.question``.
    :param service: the service it speaks of.
    :param host: the logical host, or empty where it speaks of the whole service.
    :param seen: what was seen, in words.
    :param expected: what would have been right.
    :param procedure: the procedure that helps.
    :param blames: hosts that alone account for what was seen, where it speaks of the whole service.
    :param warns: healthy, and will not be for long.
    """

    name: str
    service: str
    host: str
    healthy: bool
    seen: str
    expected: str
    procedure: str = REPAIR
    blames: tuple[str, ...] = ()
    warns: bool = False

    @property
    def subject(self) -> str:
        return f"{self.service} on {self.host}" if self.host else self.service

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "subject": self.subject}


@dataclass(frozen=True)
class Target:
    """What is probed and as whom; ``timeout`` in seconds is the limit of each single question.

    :param brokers: the address for clients by host.
    :param fewest_brokers: in how many of them a write must be.
    :param voters: hosts of the Kafka nodes that vote; empty where every broker does.
    :param controllers: ``host:port`` by host of those that are controllers alone.
    :param secured: ``address`` (``host:port``), ``host`` and ``service`` of every port that shows a certificate.
    :param tls: the files of this machine where the stack speaks TLS (see module_utils/tls.py); None where it does not.
    """

    endpoints: Mapping[str, Any]
    kafka_user: Mapping[str, str]
    s3_user: Mapping[str, str]
    brokers: Mapping[str, str]
    cluster_id: str
    topics: Sequence[str]
    buckets: Sequence[str]
    hosts: Mapping[str, str]
    monitoring: Mapping[str, Any] = field(default_factory=dict)
    fewest_brokers: int = 1
    voters: Sequence[str] = ()
    controllers: Mapping[str, str] = field(default_factory=dict)
    secured: Sequence[Mapping[str, str]] = ()
    progress_max_age: float = 30.0
    ack_max_age: float = 15.0
    timeout: float = 4.0
    tls: tls.Files | None = None


def service_check(info: Mapping[str, Any]) -> Check:
    """Judge a ServiceInfo: a process that runs, is not suspended and has its network."""
    state = str(info["state"])
    detail = str(info.get("detail") or "")
    return Check(
        "service.running",
        str(info["service"]),
        str(info["host"]),
        state in WORKING,
        f"{state} ({detail})" if detail else state,
        "running",
        "site" if state == "absent" else REPAIR,
    )


def unreachable_check(host: str, services: Sequence[str]) -> list[Check]:
    """Say of each service of a host that can't be reached that nothing is known of it."""
    return [
        Check(
            "service.running",
            service,
            host,
            False,
            "the host can't be reached",
            "running",
            "health-check",
        )
        for service in services
    ]


def _first_line(error: BaseException) -> str:
    if isinstance(error, tls.TlsError):
        return error.seen
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def dial(address: str, timeout: float) -> None:
    """Open and close a connection to ``host:port``: a refused one is known at once, where a client would try again.

    :raises OSError: when nobody listens there.
    """
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout).close()


def broker_check(
    target: Target, host: str, connect: Callable[..., Any], dial: Callable[[str, float], None] = dial
) -> Check:
    """Ask one broker, and no other, to authenticate us: a port that is merely open does not pass."""
    expected = f"an authenticated answer within {target.timeout:g} s"
    try:
        dial(target.brokers[host], target.timeout)
        client = connect(
            [target.brokers[host]],
            target.kafka_user["username"],
            target.kafka_user["password"],
            target.timeout,
        )
    except Exception as error:  # noqa: BLE001  any failure to answer is the answer
        return Check("kafka.answers", "kafka", host, False, _first_line(error), expected, _helps(error))
    client.close()
    return Check("kafka.answers", "kafka", host, True, "answers", expected)


def _helps(error: Exception) -> str:
    """A certificate that is wrong stays so, however often what shows it is restarted."""
    return DEPLOY if isinstance(error, tls.TlsError) else REPAIR


def controller_check(target: Target, host: str, dial: Callable[[str, float], None] = dial) -> Check:
    """Ask a controller that is no broker to take a connection, with TLS a handshake: clients have no login there."""
    expected = f"a connection within {target.timeout:g} s"
    try:
        dial(target.controllers[host], target.timeout)
    except Exception as error:  # noqa: BLE001  any failure to answer is the answer
        return Check("kafka.answers", "kafka", host, False, _first_line(error), expected, _helps(error))
    return Check("kafka.answers", "kafka", host, True, "answers", expected)


def judge_cluster(
    cluster: Mapping[str, Any],
    quorum_leader: int,
    topics: Sequence[Mapping[str, Any]],
    target: Target,
) -> list[Check]:
    """Judge the metadata of the cluster: identity, quorum, members, replicas, declared topics.

    :param cluster: describe_cluster's answer (keys cluster_id, brokers with broker_id, host, port and is_fenced).
    :param topics: describe_topics' answer (name, error_code, partitions with leader_id, replica_nodes, isr_nodes).
    """
    live = [broker for broker in cluster["brokers"] if not broker.get("is_fenced")]
    partitions = [
        (topic["name"], partition) for topic in topics if not topic["error_code"] for partition in topic["partitions"]
    ]
    offline = [f"{name}-{part['partition_index']}" for name, part in partitions if part["leader_id"] < 0]
    behind = [(name, part) for name, part in partitions if len(part["isr_nodes"]) < len(part["replica_nodes"])]
    lagging = [f"{name}-{part['partition_index']}" for name, part in behind]
    names = {address: host for host, address in target.brokers.items()}
    hosts = {
        broker["broker_id"]: names.get(f"{broker.get('host')}:{broker.get('port')}", f"node {broker['broker_id']}")
        for broker in cluster["brokers"]
    }
    absent = set(target.brokers) - {hosts[broker["broker_id"]] for broker in live}
    late = {node for _, part in behind for node in set(part["replica_nodes"]) - set(part["isr_nodes"])}
    present = {topic["name"] for topic in topics if not topic["error_code"]}
    missing = [name for name in target.topics if name not in present]

    def check(
        name: str, healthy: bool, seen: str, expected: str, procedure: str = REPAIR, blames: Iterable[str] = ()
    ) -> Check:
        return Check(name, "kafka", "", healthy, seen, expected, procedure, tuple(sorted(blames)))

    def some(items: Sequence[str]) -> str:
        return f"{len(items)} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})" if items else "0"

    return [
        check(
            "kafka.identity",
            cluster["cluster_id"] == target.cluster_id,
            f"cluster id {cluster['cluster_id']}",
            f"{target.cluster_id} (the inventory's)",
            "status-all",
        ),
        check(
            "kafka.quorum",
            quorum_leader >= 0,
            f"controller {quorum_leader}",
            "an active controller",
        ),
        check(
            "kafka.brokers",
            len(live) == len(target.brokers),
            f"{len(live)} brokers in service",
            f"{len(target.brokers)} (the inventory's)",
            blames=absent,
        ),
        check("kafka.offline_partitions", not offline, f"{some(offline)} offline partitions", "0"),
        check(
            "kafka.in_sync",
            not lagging,
            f"{some(lagging)} under-replicated partitions",
            "0",
            blames={hosts.get(node, f"node {node}") for node in late},
        ),
        check(
            "kafka.topics",
            not missing,
            f"missing: {', '.join(missing)}" if missing else "all there",
            "all declared",
        ),
    ]


def _answering(addresses: Sequence[str], timeout: float, dial: Callable[[str, float], None]) -> list[str]:
    found = []
    refusal: Exception = ConnectionRefusedError("no broker is named")
    for address in addresses:
        try:
            dial(address, timeout)
            found.append(address)
        except (OSError, tls.TlsError) as error:
            refusal = error
    if not found:
        raise refusal
    return found


def cluster_checks(
    target: Target, connect: Callable[..., Any], dial: Callable[[str, float], None] = dial
) -> list[Check]:
    """Ask the cluster as a whole, through whichever broker takes connections."""
    try:
        client = connect(
            _answering(list(target.brokers.values()), target.timeout, dial),
            target.kafka_user["username"],
            target.kafka_user["password"],
            target.timeout,
        )
        try:
            quorum = client.describe_metadata_quorum()
            leader = int(quorum["topics"][0]["partitions"][0]["leader_id"])
            return judge_cluster(client.describe_cluster(), leader, client.describe_topics(), target)
        finally:
            client.close()
    except Exception as error:  # noqa: BLE001  any failure to answer is the answer
        return [Check("kafka.cluster", "kafka", "", False, _first_line(error), "an answering cluster")]


def http_get(url: str, timeout: float, files: tls.Files | None = None, authorization: str = "") -> tuple[int, str]:
    """Return status code and body of a GET; 0 and the reason where there was no answer.

    :param files: what the stack is trusted by and shown, where it speaks TLS.
    :param authorization: the header of that name, where the page wants one (see :func:`authorization_of`).
    """
    # The address is the inventory's own, never a person's input.
    request = urllib.request.Request(url)  # noqa: S310
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        context = None if files is None else tls.client_context(files)
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:  # noqa: S310
            return int(answer.status), answer.read().decode("utf-8", errors="replace")
    except urllib.error.HTTPError as error:
        return int(error.code), ""
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        # Whoever was silent for that long is not asked a second time.
        blamed = "" if isinstance(reason, TimeoutError) else tls.complaint(url, files, timeout)
        return 0, blamed or str(reason)
    except RunbookError as error:
        return 0, str(error)


def authorization_of(login: Mapping[str, Any]) -> str:
    """Return what a page is shown: of a ``token``, or of ``username`` and ``password``."""
    if login.get("token"):
        return f"Bearer {login['token']}"
    return "Basic " + b64encode(f"{login['username']}:{login['password']}".encode()).decode()


def getter(files: tls.Files | None) -> Callable[[str, float], tuple[int, str]]:
    """:func:`http_get` as a stack wants to be asked."""
    return http_get if files is None else partial(http_get, files=files)


def store_checks(
    target: Target,
    client_factory: Callable[..., Any],
    get: Callable[[str, float], tuple[int, str]] = http_get,
) -> list[Check]:
    """Ask the object store for its write quorum and, as the operator, for every declared bucket."""
    host = target.hosts.get("minio", "")
    endpoint = str(target.endpoints["s3"]["endpoint"])
    status, reason = get(f"{endpoint}/minio/health/cluster", target.timeout)
    checks = [
        Check(
            "minio.write_quorum",
            "minio",
            host,
            status == 200,
            f"HTTP {status}" if status else reason,
            "HTTP 200 of /minio/health/cluster",
        )
    ]
    if status != 200:
        return checks
    client = client_factory(endpoint, target.s3_user["access_key"], target.s3_user["secret_key"], target.timeout)
    for bucket in target.buckets:
        try:
            client.head_bucket(Bucket=bucket)
            checks.append(Check("minio.bucket", "minio", host, True, f"{bucket} is there", bucket))
        except Exception as error:  # noqa: BLE001  any failure to answer is the answer
            checks.append(
                Check(
                    "minio.bucket",
                    "minio",
                    host,
                    False,
                    f"{bucket}: {_first_line(error)}",
                    "every declared bucket",
                )
            )
    return checks


def read_metrics(text: str) -> dict[str, float]:
    """Return the samples of a metrics page by name, labels in their written form behind it."""
    from prometheus_client.parser import text_string_to_metric_families

    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = float(sample.value)
    return samples


def _freshness(
    target: Target,
    service: str,
    metric: str,
    limit: float,
    what: str,
    get: Callable[[str, float], tuple[int, str]],
    clock: Callable[[], float],
) -> Check:
    host = target.hosts.get(service, "")
    expected = f"{what} at most {limit:g} s ago"
    name = f"{service}.progress"
    status, body = get(str(target.endpoints["metrics"][service]), target.timeout)
    if status != 200:
        return Check(name, service, host, False, f"no metrics: {body or f'HTTP {status}'}", expected)
    moment = read_metrics(body).get(metric, 0.0)
    if moment <= 0:
        return Check(name, service, host, False, f"no {what} yet", expected)
    age = clock() - moment
    return Check(name, service, host, age <= limit, f"{what} {age:.1f} s ago", expected)


def stream_check(
    target: Target,
    get: Callable[[str, float], tuple[int, str]] = http_get,
    clock: Callable[[], float] = time.time,
) -> Check:
    """Ask the streaming job when it last made progress (a batch, or the news that there is none to make)."""
    return _freshness(
        target,
        "spark-streaming",
        "spark_streaming_last_progress_timestamp_seconds",
        target.progress_max_age,
        "progress",
        get,
        clock,
    )


def producer_check(
    target: Target,
    get: Callable[[str, float], tuple[int, str]] = http_get,
    clock: Callable[[], float] = time.time,
) -> Check:
    """Ask the producer when a broker last acknowledged one of its events."""
    return _freshness(
        target,
        "producer",
        "producer_last_ack_timestamp_seconds",
        target.ack_max_age,
        "acknowledged event",
        get,
        clock,
    )


def probe_all(target: Target, scope: Sequence[str]) -> list[Check]:
    """Ask every component of the scope at once, in threads.

    :param scope: services to ask, of :data:`~.assessment.SCOPE`; ``monitoring`` stands for all that watches.
    """
    from . import kafka_admin, object_store
    from .monitoring import monitoring_questions

    questions: list[Callable[[], Check | list[Check]]] = []
    connect, client, knock, get = kafka_admin.connect, object_store.client, dial, getter(target.tls)
    if target.tls is not None:
        from .certificate_checks import certificate_checks

        connect, client = partial(connect, files=target.tls), partial(client, files=target.tls)
        knock = partial(tls.dial, target.tls)
        questions.append(lambda: certificate_checks(target, scope))
    if "kafka" in scope:
        questions += [
            lambda host=host: broker_check(target, host, connect, knock)  # type: ignore[misc]
            for host in target.brokers
        ]
        questions += [
            lambda host=host: controller_check(target, host, knock)  # type: ignore[misc]
            for host in target.controllers
        ]
        questions.append(lambda: cluster_checks(target, connect, knock))
    if "minio" in scope:
        questions.append(lambda: store_checks(target, client, get))
    if "spark-streaming" in scope:
        questions.append(lambda: stream_check(target, get))
    if "producer" in scope:
        questions.append(lambda: producer_check(target, get))
    if "monitoring" in scope and target.monitoring:
        questions += monitoring_questions(target, get)
    checks: list[Check] = []
    with ThreadPoolExecutor(max_workers=max(1, len(questions))) as pool:
        for answer in pool.map(lambda question: question(), questions):
            checks += answer if isinstance(answer, list) else [answer]
    return checks
