"""The tables, on a local disk with the real delta-rs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.errors import StartRefused
from pipeline.streaming.tables import require_columns
from pipeline.tables import business_events, facts

COLUMNS = {"device_id": "string", "event_time": "timestamp", "offset": "bigint", "partition": "int"}


@pytest.fixture
def table(tmp_path: Path) -> DeltaTable:
    moments = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 3, 2)]
    rows = pa.table(
        {
            "device_id": ["device-0001", "canary-0001", "canarybird"],
            "event_time": pa.array(moments, pa.timestamp("us", "UTC")),
            "offset": pa.array([0, 1, 2], pa.int64()),
            "partition": pa.array([0, 0, 0], pa.int32()),
        }
    )
    write_deltalake(str(tmp_path / "t"), rows)
    return DeltaTable(str(tmp_path / "t"))


def test_the_facts_come_from_the_log(table: DeltaTable) -> None:
    found = facts("s3://b/t", table)
    assert (found.version, found.rows, found.files) == (0, 3, 1)
    assert found.bytes > 0
    assert found.newest_event_time == "2026-01-03T00:00:00.000000Z"


def test_no_table_is_a_fact_too() -> None:
    assert facts("s3://b/t", None).as_json() == {
        "uri": "s3://b/t",
        "version": None,
        "rows": 0,
        "files": 0,
        "bytes": 0,
        "newest_event_time": None,
    }


def test_the_business_view_has_no_canaries(table: DeltaTable) -> None:
    assert business_events(table, ["device_id"])["device_id"].to_pylist() == ["device-0001", "canarybird"]


def test_the_expected_columns_pass(table: DeltaTable) -> None:
    require_columns("s3://b/t", table, COLUMNS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"new": "string"}, "new: no column"),
        ({"offset": "string"}, "offset: "),
        ({"readings": "map<string,double>"}, "readings: no column"),
    ],
)
def test_other_columns_are_refused_by_name(table: DeltaTable, change: dict[str, str], named: str) -> None:
    with pytest.raises(StartRefused, match=named):
        require_columns("s3://b/t", table, {**COLUMNS, **change})
