"""What needs a JVM: the judgement of messages, the split of a batch, and the driver's Java options."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyspark
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as fn

from pipeline.errors import Unavailable
from pipeline.streaming.lease import LeaseLost
from pipeline.streaming.schema import event_columns, event_fields, judge
from pipeline.streaming.session import JAVA_MODULE_OPTIONS, write_trust_store
from pipeline.streaming.sink import Sink
from tests.unit.authority import Authority
from tests.unit.pipeline.support import SCHEMA

FIELDS = event_fields(json.loads(SCHEMA.read_text()))
LIMIT = 4096
GOOD: dict[str, Any] = {
    "schema_version": 1,
    "device_id": "device-0001",
    "boot_id": "boot",
    "sequence": 3,
    "event_time": "2026-01-01T00:00:00.123456Z",
    "readings": {"temperature_celsius": 20, "humidity_percent": 50.5},
}


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    session = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "1")
        .getOrCreate()
    )
    yield session
    session.stop()


def event(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


CASES: list[tuple[bytes | None, str | None]] = [
    (event(), None),
    (event(new_field={"x": [1, None]}), None),
    (event(sequence=2**62), None),
    (event(device_id="ö\U0001f600"), None),
    (b"  " + event() + b"\n", None),
    (None, "value: null"),
    (b"", "value: not one JSON"),
    (b"{", "value: not one JSON"),
    (b"\xff\xfe", "value: not one JSON"),
    (b"[" * 3000, "value: not one JSON"),
    (event() + b" trailing", "value: not one JSON"),
    (event() + event(), "value: not one JSON"),
    (event() + b"," + event(), "value: not one JSON"),
    (b'{"device_id":"first",' + event()[1:], "value: not one JSON"),
    (event(readings={"a": float("nan")}), "value: not one JSON"),
    (b"x" * (LIMIT + 1), f"value: found {LIMIT + 1} bytes, allowed at most {LIMIT}"),
    (b"[1]", "value: found ARRAY"),
    (b"5", "value: found BIGINT"),
    (b"null", "value: found VOID"),
    *((without(name), f"{name}: missing") for name in GOOD),
    *((event(**{name: None}), f"{name}: null") for name in GOOD),
    *((event(**{name: True}), f"{name}: found BOOLEAN") for name in GOOD),
    (event(device_id=5), "device_id: found BIGINT, expected a string"),
    (event(device_id=""), "device_id: out of bounds"),
    (event(device_id="x" * 129), "device_id: out of bounds"),
    (event(sequence="3"), "sequence: found STRING, expected an integer"),
    (event(sequence=3.5), "sequence: found DECIMAL"),
    (event(sequence=-1), "sequence: out of bounds"),
    (event(sequence=2**63), "sequence: found DECIMAL"),
    (event(event_time="yesterday"), "event_time: expected"),
    (event(event_time="2026-13-01T00:00:00Z"), "event_time: expected"),
    (event(event_time="2026-01-01T00:00:00+02:00"), "event_time: expected"),
    (event(event_time="0000-01-01T00:00:00Z"), "event_time: expected"),
    (event(readings={}), "readings: out of bounds"),
    (event(readings=[1]), "readings: found ARRAY"),
    (event(readings={"a": "5"}), "readings: expected"),
    (event(readings={"a": None}), "readings: expected"),
    (event(readings={"a": 1e30}).replace(b"1e+30", b"1e400"), "readings: expected"),
]


def messages(spark: SparkSession, values: list[bytes | None]) -> DataFrame:
    """Rows as the Kafka source gives them; made of literals, so that no Python worker is needed."""
    rows = [
        spark.range(1).select(
            fn.lit(b"key").alias("key"),
            fn.lit(value).cast("binary").alias("value"),
            fn.lit("iot-events").alias("topic"),
            fn.lit(2).alias("partition"),
            fn.lit(number).cast("bigint").alias("offset"),
            fn.lit("2026-02-03 04:05:06").cast("timestamp").alias("timestamp"),
        )
        for number, value in enumerate(values)
    ]
    result = rows[0]
    for row in rows[1:]:
        result = result.union(row)
    return result


def test_each_message_is_an_event_or_a_dead_letter_with_its_reason(spark: SparkSession) -> None:
    judged = judge(messages(spark, [value for value, _ in CASES]), FIELDS, LIMIT).collect()
    wrong = []
    for row in judged:
        value, reason = CASES[row["offset"]]
        matches = row["reason"] is None if reason is None else str(row["reason"]).startswith(reason)
        if not matches or bytes(row["value"] or b"") != (value or b""):
            wrong.append((value, reason, row["reason"]))
    assert len(judged) == len(CASES)
    assert wrong == []


def test_a_row_says_what_the_event_said(spark: SparkSession) -> None:
    row = judge(messages(spark, [event()]), FIELDS, LIMIT).select(*event_columns(FIELDS)).collect()[0].asDict()
    assert row["device_id"] == "device-0001"
    assert row["sequence"] == 3
    assert row["readings"] == {"temperature_celsius": 20.0, "humidity_percent": 50.5}
    assert row["event_time"].microsecond == 123456
    assert (row["topic"], row["partition"], row["offset"]) == ("iot-events", 2, 0)
    assert str(row["ingest_date"]) == "2026-02-03"


def test_the_columns_have_the_types_that_the_tables_are_made_with(spark: SparkSession) -> None:
    judged = judge(messages(spark, [event()]), FIELDS, LIMIT)
    columns = event_columns(FIELDS)
    assert dict(judged.select(*columns).dtypes) == columns


class FakeTables:
    """A writer that keeps rows; ``has_events`` skips the events, as a table that has the batch does."""

    def __init__(self, has_events: bool = False) -> None:
        self.has_events = has_events
        self.written: dict[str, list[int]] = {}
        self.notes: list[dict[str, Any]] = []

    def append(self, rows: DataFrame, table: str, batch_id: int, user_metadata: str) -> None:
        if not (self.has_events and table == "events"):
            self.written[table] = [row["offset"] for row in rows.collect()]
            self.notes.append(json.loads(user_metadata))


def run(spark: SparkSession, tables: FakeTables, values: list[bytes | None], silences: int = 0) -> list[int]:
    """Write one batch; the object store is silent that often before it says where the batch ends."""
    counted: list[int] = []
    unanswered = iter(range(silences))

    def ends(_: int) -> dict[str, dict[str, int]]:
        if next(unanswered, None) is not None:
            raise Unavailable("object store", "no answer")
        return {"iot-events": {"2": len(values)}}

    sink = Sink(tables, "events", "dead", list(event_columns(FIELDS)), ends, counted.append)
    batch = threading.Thread(target=sink, args=(judge(messages(spark, values), FIELDS, LIMIT), 7))
    batch.start()
    batch.join(60)
    assert not batch.is_alive(), "the sink waits for an observation that never comes"
    assert sink.last_batch == 7
    return counted


def test_a_batch_is_split(spark: SparkSession) -> None:
    tables = FakeTables()
    assert run(spark, tables, [event(), b"x", event(), None]) == [2]
    assert tables.written == {"events": [0, 2], "dead": [1, 3]}
    assert tables.notes == [{"batch": 7, "end_offsets": {"iot-events": {"2": 4}}}] * 2


def test_a_batch_outlives_an_object_store_that_is_silent(spark: SparkSession) -> None:
    tables = FakeTables()
    assert run(spark, tables, [event()], silences=1) == []
    assert tables.notes == [{"batch": 7, "end_offsets": {"iot-events": {"2": 1}}}]


def test_a_batch_without_dead_letters_makes_one_commit(spark: SparkSession) -> None:
    tables = FakeTables()
    assert run(spark, tables, [event(), event()]) == []
    assert tables.written == {"events": [0, 1]}


def test_a_batch_that_the_events_table_has_still_brings_its_dead_letters(spark: SparkSession) -> None:
    tables = FakeTables(has_events=True)
    assert run(spark, tables, [event(), b"x"]) == [1]
    assert tables.written == {"dead": [1]}


def test_a_lease_that_is_lost_inside_a_batch_keeps_its_commit_away(spark: SparkSession) -> None:
    tables = FakeTables()
    answers = [None, None, LeaseLost("lease", "gone")]

    def require() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    sink = Sink(
        tables, "events", "dead", list(event_columns(FIELDS)), lambda _: None, lambda _: None, require_lease=require
    )
    with pytest.raises(LeaseLost):
        sink(judge(messages(spark, [event(), b"x"]), FIELDS, LIMIT), 7)
    assert tables.written == {"events": [0]}
    assert sink.last_batch == -1


def test_java_reads_the_trust_store_without_a_password(spark: SparkSession, tmp_path: Path) -> None:
    authority, store = Authority(tmp_path / "tls"), tmp_path / "trust.jks"
    gateway: Any = spark.sparkContext._gateway
    write_trust_store(gateway, authority.ca_file, store)
    read = gateway.jvm.java.security.KeyStore.getInstance("JKS")
    read.load(gateway.jvm.java.io.FileInputStream(str(store)), None)
    assert [read.isCertificateEntry(alias) for alias in read.aliases()] == [True]
    assert "CN=test authority" in read.getCertificate("authority-0").toString()


def test_the_java_options_are_those_of_sparks_launcher() -> None:
    home = Path(pyspark.__file__).parent
    launcher = ["java", "-cp", f"{home}/jars/*", "org.apache.spark.launcher.Main"]
    told = subprocess.run(
        [*launcher, "org.apache.spark.deploy.SparkSubmit", "--class", "none", "none.jar"],
        env={"SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.13", "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    words = told.stdout.decode().split("\0")
    options = [word for word in words if word.startswith(("-XX:", "--add", "--enable", "-Djdk", "-Dio.netty"))]
    assert options == list(JAVA_MODULE_OPTIONS)
