"""Make each of the runbook's five alerts fire by a real cause; see it at the webhook receiver, firing and resolved.

``fire`` brings the causes about and waits for each alert at the sandbox's inbox; what the repair has to mend (a
stream and a producer that are suspended) is left so. ``resolved`` waits until the inbox was told that each is over.
Both times severity, component, procedure and the page must be those that are declared. The seconds from cause to
webhook stand in the notes, a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import kafka
from faults import inject

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.streamops.runbook.plugins.module_utils import alerting, catalog  # noqa: E402

FIVE = ("ThroughputLow", "ConsumerLagHigh", "BatchTimeHigh", "ProduceErrorRatioHigh", "StorageUsageHigh")
FILL = "lab-fill/"
MIB = 1 << 20


class Mismatch(Exception):
    """An alert came to the webhook with other words than are declared."""


def declared(runbook_url: str) -> dict[str, dict[str, str]]:
    """Return, by alert, the labels and the annotation that each must carry.

    :param runbook_url: what stands before docs/runbooks.
    """
    alerts = alerting.load(ROOT / "config" / "prometheus" / "alerts.yml")
    rules = alerting.rule_file(alerts, catalog.load(ROOT / "config" / "runbook"), {}, runbook_url)
    found = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    return {name: {**found[name]["labels"], "runbook_url": found[name]["annotations"]["runbook_url"]} for name in FIVE}


def check(alert: str, entry: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
    """Compare an alert as it came to the webhook with what is declared.

    :param entry: of Alertmanager's message: status, labels, annotations.
    :raises Mismatch: naming each word that differs.
    """
    came = {**entry["labels"], "runbook_url": entry["annotations"].get("runbook_url")}
    wrong = [
        f"{key}: found {came.get(key)}, expected {value}" for key, value in wanted.items() if came.get(key) != value
    ]
    if wrong:
        raise Mismatch(f"{alert}, {entry['status']} at the webhook: {'; '.join(wrong)}")


@dataclass
class Lab:
    """The lab as its own files describe it.

    :param declared: what each alert must carry.
    """

    root: Path
    declared: Mapping[str, Mapping[str, str]]

    def __post_init__(self) -> None:
        self.endpoints: dict[str, Any] = json.loads((self.root / "endpoints.json").read_text())
        self.credentials: dict[str, Any] = json.loads((self.root / "credentials.json").read_text())
        self.inbox = next((self.root / "hosts").glob("*/data/inbox")) / "messages.jsonl"
        self.notes = self.root / "lab" / "alerts.json"

    def messages(self, alert: str, status: str, since: float) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield (Unix time of arrival, the alert as Alertmanager sent it) of what came after ``since``."""
        lines = self.inbox.read_text().splitlines() if self.inbox.exists() else []
        for line in lines:
            message = json.loads(line)
            moment = datetime.fromisoformat(message["received_at"]).timestamp()
            for entry in message["body"].get("alerts", []):
                if moment >= since and entry["status"] == status and entry["labels"]["alertname"] == alert:
                    yield moment, entry

    def wait(self, alert: str, status: str, since: float, patience: float) -> tuple[float, dict[str, Any]]:
        """Return the first such message.

        :raises TimeoutError: none came within ``patience`` seconds of now.
        :raises Mismatch: it came with other words than are declared.
        """
        deadline = time.time() + patience
        while (found := next(self.messages(alert, status, since), None)) is None:
            if time.time() > deadline:
                raise TimeoutError(f"{alert} was not {status} at the webhook within {patience:g} s")
            time.sleep(1)
        check(alert, found[1], self.declared[alert])
        return found

    def s3(self) -> Any:
        """A client with the rights to remove versions, which no client of the pipeline has."""
        user = self.credentials["s3"]["root"]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoints["s3"]["endpoint"],
            region_name=self.endpoints["s3"]["region"],
            aws_access_key_id=user["access_key"],
            aws_secret_access_key=user["secret_key"],
        )


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def wrong_clock(lab: Lab, seconds: float) -> int:
    """Send for ``seconds`` as a client whose clock is a day ahead: the broker fails each request; returns how many."""
    endpoint, user = lab.endpoints["kafka"], lab.credentials["kafka"]["load"]
    producer = kafka.KafkaProducer(
        bootstrap_servers=endpoint["bootstrap"].split(","),
        security_protocol=endpoint["security_protocol"],
        sasl_mechanism=endpoint["sasl_mechanism"],
        sasl_plain_username=user["username"],
        sasl_plain_password=user["password"],
        acks="all",
        retries=0,
        enable_idempotence=False,
    )
    ahead = int((time.time() + 86400) * 1000)
    refused = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            producer.send(endpoint["topic"], b"{}", timestamp_ms=ahead).get(10)
        except kafka.errors.KafkaError:
            refused += 1
        time.sleep(0.2)
    producer.close()
    return refused


def fill(lab: Lab, capacity: int, share: float = 0.85) -> int:
    """Write objects until the buckets hold ``share`` of ``capacity`` bytes; returns the bytes written."""
    bucket = lab.endpoints["tables"]["events"].split("/")[2]
    wanted = int(capacity * share)
    client, block, written = lab.s3(), os.urandom(16 * MIB), 0
    while written < wanted:
        client.put_object(Bucket=bucket, Key=f"{FILL}{written // MIB:05d}", Body=block)
        written += len(block)
    return written


def empty(lab: Lab) -> None:
    """Remove what :func:`fill` wrote, every version of it."""
    bucket = lab.endpoints["tables"]["events"].split("/")[2]
    client = lab.s3()
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=FILL):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            client.delete_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])


def hit(lab: Lab, sign: signal.Signals, service: str) -> None:
    """Send a signal to a service of the lab.

    :raises LookupError: it does not run.
    """
    if not inject(lab.root, sign, {service}, None):
        raise LookupError(f"no {service} runs in the lab")


def burst(lab: Lab, events: int) -> None:
    """Send events that nobody reads, by the project's own load generator."""
    ledger = lab.root / "lab" / "alerts-live.burst.ledger"
    ledger.unlink(missing_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline",
            "load",
            "--rate",
            "500",
            "--seconds",
            str(events // 500),
            "--ledger",
            ledger,
        ],
        env={
            **os.environ,
            "PIPELINE_ENDPOINTS": str(lab.root / "endpoints.json"),
            "PIPELINE_CREDENTIALS": str(lab.root / "credentials.json"),
        },
        check=True,
        stdout=subprocess.DEVNULL,
    )


def fire(lab: Lab, capacity: int) -> dict[str, Any]:
    """Bring the causes about; returns, by alert, cause, seconds to the webhook and the labels that came."""
    found: dict[str, Any] = {}

    def cause(alert: str, text: str, act: Callable[[], object]) -> float:
        say(f"{alert}: {text}")
        moment = time.time()
        act()
        found[alert] = {"cause": text, "began": moment}
        return moment

    def seen(alert: str, patience: float) -> None:
        moment, entry = lab.wait(alert, "firing", found[alert]["began"], patience)
        found[alert] |= {"seconds": round(moment - found[alert]["began"], 1), "labels": entry["labels"]}
        say(f"{alert}: at the webhook after {found[alert]['seconds']} s")

    # All at once, since each of them takes minutes to be told; none of the causes hides another.
    cause("BatchTimeHigh", "the object store is suspended under load", lambda: hit(lab, signal.SIGSTOP, "minio"))
    with ThreadPoolExecutor() as beside:
        try:
            cause("ConsumerLagHigh", "5,000 events come in and the stream is kept from them", lambda: burst(lab, 5000))
            cause("ThroughputLow", "the producer is suspended", lambda: hit(lab, signal.SIGSTOP, "producer"))
            began = time.time()
            client = beside.submit(wrong_clock, lab, 60)
            seen("BatchTimeHigh", 60)
            # Before the store is back, or the stream would catch up; and before it loses its lease.
            hit(lab, signal.SIGSTOP, "spark-streaming")
        finally:
            hit(lab, signal.SIGCONT, "minio")
        cause_of = f"a client a day ahead: {client.result()} requests failed"
        found["ProduceErrorRatioHigh"] = {"cause": cause_of, "began": began}
    try:
        cause("StorageUsageHigh", "the buckets are filled to 85 % of what they may hold", lambda: fill(lab, capacity))
        seen("ProduceErrorRatioHigh", 120)
        seen("StorageUsageHigh", 400)
    finally:
        # Whatever failed, the next scenario needs the room.
        empty(lab)
    seen("ConsumerLagHigh", 300)
    seen("ThroughputLow", 480)
    return found


def resolved(lab: Lab) -> dict[str, Any]:
    """Wait until the webhook was told that each alert is over; adds the seconds since its cause."""
    found: dict[str, Any] = json.loads(lab.notes.read_text())
    for alert in FIVE:
        moment, _ = lab.wait(alert, "resolved", found[alert]["began"], 420)
        found[alert]["resolved_after"] = round(moment - found[alert]["began"], 1)
        say(f"{alert}: resolved {found[alert]['resolved_after']} s after its cause")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["fire", "resolved"])
    parser.add_argument("--root", type=Path, required=True, help="the lab's root")
    parser.add_argument("--capacity", type=int, default=0, help="bytes that the buckets may hold")
    parser.add_argument("--runbook-url", required=True, help="what stands before docs/runbooks in an alert's page")
    given = parser.parse_args()
    if not (given.root / ".streamops-sandbox").is_file():
        print(f"{given.root} carries no mark of a sandbox; nothing was touched", file=sys.stderr)
        return 1
    lab = Lab(given.root, declared(given.runbook_url))
    try:
        found = fire(lab, given.capacity) if given.step == "fire" else resolved(lab)
    except (TimeoutError, Mismatch) as error:
        print(error, file=sys.stderr)
        return 1
    lab.notes.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
