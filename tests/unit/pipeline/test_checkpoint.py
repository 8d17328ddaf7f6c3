"""The start: refused whenever going on would lose or double data, and only then."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import EXIT_REFUSED, StartRefused
from pipeline.streaming.checkpoint import (
    NO_TABLE,
    CheckpointFacts,
    Pointer,
    StartDecision,
    TableFacts,
    approve,
    read_checkpoint,
    read_end_offsets,
    read_or_create_pointer,
    starting_offsets,
)
from tests.unit.pipeline.support import MemoryStore

POINTER = "s3://iot-checkpoints/streaming/current.json"
FOLDER = "s3://iot-checkpoints/streaming/1"
NONE = TableFacts(NO_TABLE, 0, None)
EMPTY = TableFacts(0, 0, None)
FRESH = CheckpointFacts(None, None, None)


def decision(table_version: int = NO_TABLE) -> StartDecision:
    return StartDecision(
        starting_offsets="earliest", table_version=table_version, decided_at="t", decided_by="who", reason="why"
    )


def offsets(end: int) -> bytes:
    return ('v1\n{"batchWatermarkMs":0}\n' + json.dumps({"iot-events": {"0": end}})).encode()


def store(**names: bytes) -> MemoryStore:
    return MemoryStore(**{f"{FOLDER}/{name}": body for name, body in names.items()})


def approved(facts: CheckpointFacts, table: TableFacts, start: StartDecision | None = None) -> None:
    approve(FOLDER, facts, POINTER, start or decision(), table)


@pytest.mark.parametrize("table", [NONE, EMPTY])
def test_the_first_start_makes_the_pointer(table: TableFacts) -> None:
    objects = MemoryStore()
    pointer = read_or_create_pointer(objects, POINTER, table)
    assert Pointer.model_validate_json(objects.objects[POINTER]) == pointer
    assert pointer.checkpoint.startswith("s3://iot-checkpoints/streaming/")
    assert pointer.start.starting_offsets == "earliest"
    assert read_or_create_pointer(objects, POINTER, TableFacts(9, 9, None)) == pointer


def test_of_two_first_starts_one_wins() -> None:
    objects = MemoryStore()
    winner = Pointer(checkpoint=FOLDER, start=decision())
    objects.before_create = lambda: objects.objects.setdefault(POINTER, winner.model_dump_json().encode())
    assert read_or_create_pointer(objects, POINTER, NONE) == winner


def test_no_pointer_but_rows_is_refused() -> None:
    objects = MemoryStore()
    with pytest.raises(StartRefused, match="rows") as raised:
        read_or_create_pointer(objects, POINTER, TableFacts(3, 2, None))
    assert POINTER in str(raised.value)
    assert raised.value.next_step
    assert raised.value.exit_code == EXIT_REFUSED
    assert not objects.objects


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"checkpoint": "s3://b/k"}', b"[]"])
def test_a_pointer_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(StartRefused, match="pointer"):
        read_or_create_pointer(MemoryStore(**{POINTER: body}), POINTER, NONE)


def test_what_stands_in_a_checkpoint_is_read() -> None:
    objects = store(
        **{
            "metadata": b'{"id":"query-1"}',
            "offsets/9": offsets(5),
            "offsets/10": offsets(6),
            "offsets/.11.tmp": b"",
            "commits/9": b'v1\n{"nextBatchWatermarkMs":0}',
            "sources/0/0": b"anything",
        }
    )
    assert read_checkpoint(objects, FOLDER) == CheckpointFacts("query-1", 10, 9)
    assert read_end_offsets(objects, FOLDER, 10) == {"iot-events": {"0": 6}}
    assert read_end_offsets(objects, FOLDER, 11) is None


def test_an_empty_folder_is_an_empty_checkpoint() -> None:
    assert read_checkpoint(store(), FOLDER).empty


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("offsets/3", b""),
        ("offsets/3", offsets(5)[:-4]),
        ("commits/3", b""),
        ("commits/3", b"v1"),
        ("metadata", b""),
        ("metadata", b'{"id'),
    ],
)
def test_a_cut_file_is_named(name: str, body: bytes) -> None:
    whole = {"metadata": b'{"id":"q"}', "offsets/3": offsets(5), "commits/3": b"v1\n{}"}
    with pytest.raises(StartRefused, match=f"{FOLDER}/{name}"):
        read_checkpoint(store(**{**whole, name: body}), FOLDER)


@pytest.mark.parametrize(
    ("facts", "table"),
    [
        (FRESH, NONE),
        (FRESH, EMPTY),
        # The query was made, and the driver died before its first batch.
        (CheckpointFacts("q", None, None), EMPTY),
        # Inside the first batch, before and after the table's commit.
        (CheckpointFacts("q", 0, None), EMPTY),
        (CheckpointFacts("q", 0, None), TableFacts(1, 2, 0)),
        # In the middle, after a whole batch, and inside one.
        (CheckpointFacts("q", 7, 7), TableFacts(8, 16, 7)),
        (CheckpointFacts("q", 8, 7), TableFacts(8, 16, 7)),
        (CheckpointFacts("q", 8, 7), TableFacts(9, 18, 8)),
        # A clean-up removed every row.
        (CheckpointFacts("q", 7, 7), TableFacts(30, 0, 7)),
    ],
)
def test_an_ordinary_start_is_approved(facts: CheckpointFacts, table: TableFacts) -> None:
    approved(facts, table)


def test_offsets_without_metadata_are_refused() -> None:
    with pytest.raises(StartRefused, match="without the file metadata") as raised:
        approved(CheckpointFacts(None, 7, 7), TableFacts(8, 16, None))
    assert f"{FOLDER}/metadata" in raised.value.next_step


def test_a_deleted_checkpoint_is_refused_while_the_table_has_rows() -> None:
    with pytest.raises(StartRefused, match="no offsets, while the events table has rows") as raised:
        approved(FRESH, TableFacts(8, 16, None))
    assert FOLDER in raised.value.thing
    assert POINTER in raised.value.next_step


def test_a_recorded_decision_that_knows_the_rows_is_honoured() -> None:
    approved(FRESH, TableFacts(8, 16, None), decision(table_version=8))
    with pytest.raises(StartRefused, match="up to version 7"):
        approved(FRESH, TableFacts(8, 16, None), decision(table_version=7))


def test_deleted_offsets_are_refused() -> None:
    with pytest.raises(StartRefused, match="offsets only up to 6"):
        approved(CheckpointFacts("q", 6, 7), TableFacts(8, 16, 7))
    with pytest.raises(StartRefused, match="offsets only up to None"):
        approved(CheckpointFacts("q", None, 0), TableFacts(8, 16, 0))


def test_a_deleted_table_is_refused() -> None:
    with pytest.raises(StartRefused, match="events table"):
        approved(CheckpointFacts("q", 7, 7), NONE)


def test_a_checkpoint_older_than_the_table_is_refused() -> None:
    with pytest.raises(StartRefused, match="holds batch 9"):
        approved(CheckpointFacts("q", 7, 7), TableFacts(10, 20, 9))


def test_the_decision_in_the_words_of_the_source() -> None:
    assert starting_offsets(decision(), "iot-events") == "earliest"
    chosen = decision().model_copy(update={"starting_offsets": {"0": 5, "1": 9}})
    assert json.loads(starting_offsets(chosen, "iot-events")) == {"iot-events": {"0": 5, "1": 9}}
