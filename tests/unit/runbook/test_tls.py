"""TLS on the controller: what is asked, whom it trusts, and how a certificate that is wrong is named."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import (
    alerting,
    assessment,
    certificate_authority,
    certificate_checks,
    checklist,
    health,
    kafka_admin,
    monitoring,
    notices,
    object_store,
    plan,
    probes,
    silences,
    tls,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError, Refused

from tests.unit.authority import Authority, serving

DAY = 86_400.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def mine(authority: Authority) -> dict[str, str]:
    """The controller's files."""
    return authority.issue("controller", days=60)


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """Files of a host of another authority."""
    return Authority(tmp_path / "stranger", "another authority").issue("stranger")


def ended(days: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() + days * DAY))


# Asking by HTTP


def test_a_page_is_read_with_our_certificate(authority: Authority, mine: dict[str, str]) -> None:
    with serving(authority.issue("minio-1"), clients=True) as server:
        assert probes.getter(mine)(f"{server.url}/metrics", 3.0) == (200, "page")
        server.status = 503
        assert probes.http_get(f"{server.url}/metrics", 3.0, mine) == (503, "")


def test_a_page_is_shown_what_it_wants(authority: Authority, mine: dict[str, str]) -> None:
    with serving(authority.issue("kafka-1")) as server:
        for login, header in (
            ({"username": "reader", "password": "p:w"}, "Basic cmVhZGVyOnA6dw=="),
            ({"token": "abc"}, "Bearer abc"),
        ):
            probes.http_get(server.url, 3.0, mine, probes.authorization_of(login))
            assert server.authorization == header


def test_without_tls_the_getter_is_the_plain_one() -> None:
    assert probes.getter(None) is probes.http_get


def test_a_certificate_that_expired_is_named_with_its_date(authority: Authority, mine: dict[str, str]) -> None:
    with serving(authority.issue("kafka-1", days=-3)) as server:
        status, seen = probes.http_get(server.url, 3.0, mine)
    assert status == 0
    assert re.fullmatch(rf"certificate of kafka-1 expired on {ended(-3)}T\d\d:\d\d:\d\dZ", seen)


def test_a_certificate_of_another_authority_is_named(stranger: dict[str, str], mine: dict[str, str]) -> None:
    with serving(stranger) as server:
        seen = probes.http_get(server.url, 3.0, mine)
        assert seen == (0, f"certificate of {server.address} is not of a trusted authority")


def test_a_certificate_of_another_address_is_named(authority: Authority, mine: dict[str, str]) -> None:
    with serving(authority.issue("kafka-2", address="127.0.0.9")) as server:
        assert probes.http_get(server.url, 3.0, mine) == (0, f"certificate of {server.address} is of another address")


def test_a_refusal_of_our_certificate_is_named(authority: Authority, stranger: dict[str, str]) -> None:
    theirs = authority.issue("minio-1")
    # Shows a certificate of its own authority and trusts ours.
    ours = stranger | {"ca_file": theirs["ca_file"]}
    with serving(theirs, clients=True) as server:
        assert probes.http_get(server.url, 3.0, ours) == (
            0,
            "our certificate stranger was refused by minio-1 (unknown ca)",
        )


def test_our_certificate_that_expired_is_named(authority: Authority) -> None:
    with serving(authority.issue("minio-1"), clients=True) as server:
        status, seen = probes.http_get(server.url, 3.0, authority.issue("controller", days=-1))
    assert status == 0
    assert seen.startswith(f"our certificate controller expired on {ended(-1)}")


def test_an_authority_that_expired_is_named(tmp_path: Path) -> None:
    old = Authority(tmp_path / "old", "old authority", days=-1)
    with serving(old.issue("minio-1")) as server:
        seen = probes.http_get(server.url, 3.0, old.issue("controller"))[1]
    assert seen.startswith(f"certificate of the authority old authority expired on {ended(-1)}")


def test_a_server_without_tls_is_named(mine: dict[str, str]) -> None:
    with serving(None) as server:
        status, seen = probes.http_get(server.url, 3.0, mine)
    assert status == 0
    assert seen.startswith(f"{server.address} speaks no TLS that we could")


def test_nobody_there_is_no_fault_of_a_certificate(mine: dict[str, str]) -> None:
    assert "refused" in probes.http_get("https://127.0.0.1:9/metrics", 3.0, mine)[1]


def test_a_file_that_is_missing_is_named(mine: dict[str, str]) -> None:
    status, seen = probes.http_get("https://127.0.0.1:9/", 3.0, mine | {"key_file": "/nowhere/host.key"})
    assert status == 0
    assert "tls.key_file: found no file /nowhere/host.key" in seen


def test_a_key_of_another_certificate_is_refused(authority: Authority, mine: dict[str, str]) -> None:
    with pytest.raises(Refused, match="KEY_VALUES_MISMATCH"):
        tls.client_context(mine | {"key_file": authority.issue("b")["key_file"]})


# Probes


def target(files: dict[str, str] | None, **changes: Any) -> probes.Target:
    nobody = "https://127.0.0.1:9"
    fields = {
        "endpoints": {"s3": {"endpoint": nobody}, "metrics": {}},
        "kafka_user": {"username": "u", "password": "p"},
        "s3_user": {"access_key": "a", "secret_key": "s"},
        "brokers": {},
        "cluster_id": "C",
        "topics": [],
        "buckets": [],
        "hosts": {"minio": "minio-1", "producer": "producer-1", "prometheus": "ops-1"},
        "timeout": 2.0,
        "tls": files,
    }
    return probes.Target(**{**fields, **changes})


def shown(service: str, host: str, *addresses: str) -> list[dict[str, str]]:
    """Ports that show a certificate, as a target has them."""
    return [{"address": address, "host": host, "service": service} for address in addresses]


def test_a_broker_with_an_expired_certificate_is_named(authority: Authority, mine: dict[str, str]) -> None:
    with serving(authority.issue("kafka-1", days=-3)) as server:
        aim = target(mine, brokers={"kafka-1": server.address}, secured=shown("kafka", "kafka-1", server.address))
        found = {check.name: check for check in probes.probe_all(aim, ["kafka"])}
    assert set(found) == {"kafka.answers", "kafka.cluster", "certificate.holds"}
    for check in found.values():
        assert not check.healthy
        assert check.seen.startswith(f"certificate of kafka-1 expired on {ended(-3)}")
    # No restart renews it.
    assert found["kafka.answers"].procedure == found["certificate.holds"].procedure == "site"


def test_each_question_of_a_stack_with_tls_is_asked_in_tls(authority: Authority, mine: dict[str, str]) -> None:
    now = f"producer_last_ack_timestamp_seconds {time.time()}\n"
    with serving(authority.issue("producer-1"), clients=True, body=now) as server:
        metrics = {"producer": f"{server.url}/metrics"}
        aim = target(
            mine,
            endpoints={"s3": {"endpoint": "https://127.0.0.1:9"}, "metrics": metrics},
            secured=shown("producer", "producer-1", server.address),
        )
        found = probes.probe_all(aim, ["producer"])
    assert [(check.name, check.healthy) for check in found] == [
        ("certificate.holds", True),
        ("producer.progress", True),
    ]


def test_a_stack_without_tls_is_asked_for_no_certificate() -> None:
    aim = target(
        None, endpoints={"s3": {"endpoint": "http://127.0.0.1:9"}, "metrics": {"producer": "http://127.0.0.1:9"}}
    )
    assert [check.name for check in probes.probe_all(aim, ["producer"])] == ["producer.progress"]
    assert certificate_checks.certificate_checks(aim) == []


@pytest.mark.parametrize(
    ("days", "healthy", "said"),
    [
        (14.1, True, "certificate of minio-1 holds until "),
        (13.9, True, "certificate of minio-1 ends in 13.9 days, on "),
        (2.1, True, "certificate of minio-1 ends in 2.1 days, on "),
        (1.9, False, "certificate of minio-1 ends in 1.9 days, on "),
        (-0.1, False, "certificate of minio-1 expired on "),
    ],
)
def test_a_certificate_is_judged_by_what_is_left_of_it(
    days: float, healthy: bool, said: str, authority: Authority, mine: dict[str, str]
) -> None:
    with serving(authority.issue("minio-1", days=days), clients=True) as server:
        aim = target(mine, secured=shown("minio", "minio-1", server.address))
        (check,) = certificate_checks.certificate_checks(aim, ["minio"])
    assert (check.service, check.host, check.blames) == ("minio", "", ("minio-1",))
    assert check.healthy is healthy
    assert check.seen.startswith(said)
    # What is well and ends soon is said all the same.
    steps = [f"{check.seen}: make up"] if healthy and "ends in" in said else []
    assert health.warning_steps([check, check]) == steps


def test_thresholds_are_the_callers(authority: Authority, mine: dict[str, str]) -> None:
    with serving(authority.issue("minio-1", days=20)) as server:
        aim = target(mine, secured=shown("minio", "minio-1", server.address))
        (late,) = certificate_checks.certificate_checks(aim, ["minio"], warn_days=60, fail_days=21)
        (soon,) = certificate_checks.certificate_checks(aim, ["minio"], warn_days=21)
    assert (late.healthy, soon.healthy) == (False, True)
    assert "ends in 20.0 days" in soon.seen


def test_what_does_not_answer_has_no_certificate_to_judge(mine: dict[str, str]) -> None:
    aim = target(mine, secured=shown("kafka", "kafka-1", "127.0.0.1:9"))
    assert certificate_checks.certificate_checks(aim, ["kafka", "minio"]) == []


def test_our_own_certificates_are_judged_with_monitoring(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "short", "short authority", days=10)
    files = authority.issue("controller", days=1)
    checks = certificate_checks.certificate_checks(target(files), ["monitoring"])
    assert [(check.service, check.healthy, check.seen.split(" ends in ")[0]) for check in checks] == [
        ("monitoring", True, "certificate of the authority short authority"),
        ("monitoring", False, "our certificate controller"),
    ]
    (missing,) = certificate_checks.certificate_checks(target(files | {"ca_file": "/nowhere/ca.pem"}), ["monitoring"])
    assert not missing.healthy
    assert "/nowhere/ca.pem" in missing.seen


def test_a_certificate_is_said_once_of_a_host_and_read_from_each_port(
    authority: Authority, mine: dict[str, str]
) -> None:
    files = authority.issue("kafka-1", days=60)
    with (
        serving(files) as one,
        serving(files) as another,
        serving(authority.issue("kafka-1", days=-3)) as old,
        serving(authority.issue("minio-4", days=-3)) as last,
    ):
        secured = shown("kafka", "kafka-1", one.address, another.address, old.address)
        aim = target(mine, secured=[*secured, *shown("minio", "minio-4", last.address)])
        checks = certificate_checks.certificate_checks(aim, ["kafka", "minio"])
    assert [(check.service, check.blames, check.healthy) for check in checks] == [
        ("kafka", ("kafka-1",), True),
        ("kafka", ("kafka-1",), False),
        ("minio", ("minio-4",), False),
    ]


def test_a_name_without_a_port_is_that_of_https(mine: dict[str, str]) -> None:
    aim = target(mine, secured=shown("minio", "minio-1", "store.example.com"))
    assert certificate_checks.places(aim) == {"store.example.com:443": ("minio", "minio-1")}


def test_a_certificate_that_ends_makes_nobody_restart_anything(authority: Authority, mine: dict[str, str]) -> None:
    now = datetime.now(UTC)
    info = {"state": "running", "started_at": (now - timedelta(days=1)).isoformat(), "detail": "", "identity": None}
    services = [{**info, "service": name, "host": f"{name}-1"} for name in ("minio", "prometheus", "producer")]
    with serving(authority.issue("minio-1", days=1)) as server:
        secured = shown("minio", "minio-1", server.address)
        secured += shown("something-new", "ops-1", server.address.replace("127.0.0.1", "localhost"))
        checks = certificate_checks.certificate_checks(target(mine, secured=secured))
    assert [check.service for check in checks if not check.healthy] == ["minio", "monitoring"]
    made = plan.make(services, checks, intent="recover", since=now, now=now, grace={}, cluster_id="C")
    assert {action.verb for action in made.actions} == {"wait"}
    assert set(made.as_dict()["waits"]) <= set(assessment.SCOPE)


def test_the_days_are_the_same_wherever_they_are_judged() -> None:
    days = (certificate_checks.WARN_DAYS, certificate_checks.FAIL_DAYS)
    assert days == (certificate_authority.WARN_DAYS, certificate_authority.FAIL_DAYS)
    project = Path(__file__).parents[3]
    thresholds = alerting.load(project / "config" / "prometheus" / "alerts.yml").thresholds
    assert days == (thresholds["certificate_soon_days"], thresholds["certificate_last_days"])


# Clients of Kafka and of the object store


def test_kafka_says_which_certificate_keeps_it_away(authority: Authority, mine: dict[str, str]) -> None:
    with (
        serving(authority.issue("kafka-1", days=-3)) as server,
        pytest.raises(tls.TlsError, match=rf"certificate of kafka-1: found expired on {ended(-3)}"),
    ):
        kafka_admin.connect([server.address], "u", "p", 1.0, files=mine)


def test_kafka_that_is_not_there_is_no_fault_of_a_certificate(mine: dict[str, str]) -> None:
    from kafka.errors import KafkaError

    with pytest.raises(KafkaError):
        kafka_admin.connect("127.0.0.1:9", "u", "p", 0.5, files=mine)


def test_a_wait_for_kafka_ends_at_a_certificate(authority: Authority, mine: dict[str, str]) -> None:
    """It is an answer that no wait heals."""
    with serving(authority.issue("kafka-1", days=-3)) as server:
        connect = partial(kafka_admin.connect, [server.address], "u", "p", 1.0, files=mine)
        with pytest.raises(tls.TlsError):
            kafka_admin.ensure(connect, [], [], deadline=60)
        with pytest.raises(tls.TlsError):
            kafka_admin.wait_gate(connect, lambda _: kafka_admin.Gate(), what="gate", deadline=60)


def test_the_object_store_is_asked_in_tls(authority: Authority, mine: dict[str, str]) -> None:
    from botocore.exceptions import ClientError

    with serving(authority.issue("minio-1"), body="{}") as server:
        assert object_store.cluster_status(server.url, 3.0, files=mine) == (200, "OK")
        object_store.client(server.url, "access", "secret12", 3.0, files=mine).head_bucket(Bucket="bucket")
        control = object_store.admin(server.url, "access", "secret12", 3.0, files=mine)
        assert json.loads(control.policy_list()) == {}
        server.status = 404
        with pytest.raises(ClientError, match="404"):
            object_store.client(server.url, "access", "secret12", 3.0, files=mine).head_bucket(Bucket="bucket")


def test_a_wait_for_the_object_store_ends_at_a_certificate(stranger: dict[str, str], mine: dict[str, str]) -> None:
    with serving(stranger) as server:
        provisioner: Any = None
        status = partial(object_store.cluster_status, files=mine)
        with pytest.raises(tls.TlsError, match="is not of a trusted authority"):
            object_store.ensure(server.url, provisioner, [], {}, [], deadline=60, status=status)
        for client in (object_store.client, object_store.admin):
            made = client(server.url, "access", "secret12", 3.0, files=mine)
            ask = partial(made.head_bucket, Bucket="bucket") if hasattr(made, "head_bucket") else made.policy_list
            with pytest.raises(Exception, match=r"(?i)certificate"):
                ask()


# Prometheus, Alertmanager, webhooks


def test_prometheus_is_asked_in_tls(authority: Authority, mine: dict[str, str]) -> None:
    body = json.dumps({"data": {"result": [{"metric": {}, "value": [0, "7"]}]}})
    with serving(authority.issue("ops-1"), clients=True, body=body) as server:
        get = probes.getter(mine)
        assert monitoring.query(server.url, "up", 3.0, get)[0]["value"][1] == "7"
        panel = {"title": "P", "unit": "count", "queries": [{"name": "n", "expr": "up"}], "check": {"expr": "up"}}
        panel["check"] |= {"good": "good", "bad": "bad"}  # type: ignore[operator]
        assert checklist.daily_panels([panel], server.url, 3.0, get)[0].figure == "n 7"
    with serving(authority.issue("ops-2", days=-3)) as server, pytest.raises(ProbeError, match="ops-2 expired on"):
        monitoring.query(server.url, "up", 3.0, get)


def test_alertmanager_is_asked_in_tls(authority: Authority, stranger: dict[str, str], mine: dict[str, str]) -> None:
    with serving(authority.issue("ops-1"), clients=True, body="[]") as server:
        silencer = silences.Silencer(server.url, ask=silences.asking(mine))
        assert silencer.absent(lambda _: True).skipped_reason == ""
        without = silences.Silencer(server.url).absent(lambda _: True)
        assert without.skipped_reason == "Alertmanager: its certificate is not of a trusted authority"
    for files, said in ((stranger, "is not of a trusted authority"), (authority.issue("ops-2", days=-1), "expired")):
        with serving(files) as server:
            outcome = silences.Silencer(server.url, ask=silences.asking(mine)).absent(lambda _: True)
        assert outcome.skipped_reason == f"Alertmanager: its certificate {said}"


def test_a_notice_is_sent_to_a_webhook_of_the_stack(authority: Authority, mine: dict[str, str]) -> None:
    with serving(authority.issue("ops-1"), clients=True) as server:
        inside = notices.Target("on_call_engineer", f"{server.url}/hook", "", mine)
        notices.post_json(inside, {"id": "1"}, 3.0)
        assert [json.loads(body) for body in server.posted] == [{"id": "1"}]
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED") as raised:
            notices.post_json(replace(inside, files=None), {"id": "2"}, 3.0)
    assert notices.reason(raised.value) == "its certificate is not of a trusted authority"
    with pytest.raises(ProbeError, match=r"tls\.ca_file|no file"):
        notices.post_json(replace(inside, files=mine | {"ca_file": "/nowhere/ca.pem"}), {"id": "3"}, 3.0)


def test_a_webhook_outside_is_trusted_by_this_machines_authorities_too(mine: dict[str, str]) -> None:
    own = {entry["serialNumber"] for entry in tls.client_context(mine).get_ca_certs()}
    both = {entry["serialNumber"] for entry in tls.outward_context(mine).get_ca_certs()}
    assert len(own) == 1
    assert own < both


def test_no_tls_with_a_receiver_is_said_without_the_systems_word_for_its_number(mine: dict[str, str]) -> None:
    with serving(None) as server:
        place = notices.Target("team_lead", f"{server.url}/hook", "", mine)
        with pytest.raises(OSError, match=r"(?i)ssl") as raised:
            notices.post_json(place, {"id": "1"}, 3.0)
    assert notices.reason(raised.value).startswith("no TLS with it (")
