"""Which checkpoint is current, and whether going on from it would lose or double data.

The pointer is a small object on the store that names the current checkpoint and holds the decision
from which offsets it was started. It is created by the first start, only if there is none; a later
reset writes a new one with a new folder. The rules for a start stand in :func:`approve`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import S3Uri
from pipeline.errors import StartRefused
from pipeline.events import rfc3339

NO_TABLE = -1
_RESET = "record a start decision in {pointer} (a new checkpoint folder, chosen offsets)"


class Objects(Protocol):
    """What is used of :class:`pipeline.objectstore.ObjectStore`."""

    def get(self, uri: str) -> bytes | None: ...
    def create(self, uri: str, body: bytes) -> bool: ...
    def names(self, prefix: str) -> Iterable[str]: ...


class StartDecision(BaseModel):
    """From where a checkpoint starts while it is empty, and who said so.

    ``starting_offsets`` is ``earliest``, or partition number (as text) to first offset to read.
    ``table_version`` is the newest version of the events table that the decision knew of, -1 for no
    table: rows written later than that belong to a checkpoint that was lost.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    starting_offsets: Literal["earliest"] | dict[str, int]
    table_version: int
    decided_at: str
    decided_by: str
    reason: str


class Pointer(BaseModel):
    """The content of the pointer object: the current checkpoint (s3://) and its start decision."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    checkpoint: S3Uri
    start: StartDecision


@dataclass(frozen=True)
class CheckpointFacts:
    """What stands in a checkpoint.

    :param query_id: from its metadata; None without.
    :param newest_offsets: newest batch whose offsets are recorded; None without.
    :param newest_commit: newest batch that is recorded as done; None without.
    """

    query_id: str | None
    newest_offsets: int | None
    newest_commit: int | None

    @property
    def empty(self) -> bool:
        """Whether no batch was ever begun with it."""
        return self.newest_offsets is None and self.newest_commit is None


@dataclass(frozen=True)
class TableFacts:
    """What of the events table matters for a start.

    :param version: newest version, :data:`NO_TABLE` when there is none.
    :param files: data files of that version; 0 is an empty table.
    :param batch: newest batch that the table holds of the checkpoint's query; None for none.
    """

    version: int
    files: int
    batch: int | None


def read_or_create_pointer(store: Objects, uri: str, table: TableFacts) -> Pointer:
    """The current pointer; the first start makes it, if the table is empty.

    :param uri: s3:// address of the pointer object.
    :raises StartRefused: the pointer is no pointer, or there is none although the table has rows.
    :raises Unavailable: the object store does not answer.
    """
    body = store.get(uri)
    if body is None:
        if table.files:
            raise StartRefused(
                "checkpoint pointer",
                f"none at {uri}, while the events table has rows (version {table.version})",
                "the pointer to the checkpoint that wrote them",
                f"put {uri} back, or {_RESET.format(pointer='it')}",
            )
        pointer = Pointer(
            checkpoint=f"{uri.rpartition('/')[0]}/{uuid.uuid4()}",
            start=StartDecision(
                starting_offsets="earliest",
                table_version=table.version,
                decided_at=rfc3339(datetime.now(UTC)),
                decided_by="streaming job",
                reason="first start: the events table is empty",
            ),
        )
        if store.create(uri, pointer.model_dump_json(indent=2).encode()):
            return pointer
        # Another driver was faster: its pointer counts.
        body = store.get(uri) or b""
    try:
        return Pointer.model_validate_json(body)
    except ValidationError as error:
        raise StartRefused(
            "checkpoint pointer",
            f"no valid pointer at {uri} ({error.error_count()} problems, the first: {error.errors()[0]['msg']})",
            "an object with checkpoint and start",
            f"put {uri} back from a backup",
        ) from None


def read_checkpoint(store: Objects, checkpoint: str) -> CheckpointFacts:
    """Read what stands in a checkpoint.

    :param checkpoint: s3:// address of its folder.
    :raises StartRefused: a file that Spark will need is cut off.
    :raises Unavailable: the object store does not answer.
    """
    newest: dict[str, int] = {}
    for name in store.names(f"{checkpoint}/"):
        folder, _, number = name.partition("/")
        if folder in ("offsets", "commits") and number.isdecimal():
            newest[folder] = max(int(number), newest.get(folder, 0))
    metadata = store.get(f"{checkpoint}/metadata")
    query_id = None
    if metadata is not None:
        query_id = _query_id(f"{checkpoint}/metadata", metadata)
    for folder, batch in newest.items():
        _require_whole(store, f"{checkpoint}/{folder}/{batch}")
    return CheckpointFacts(query_id, newest.get("offsets"), newest.get("commits"))


def read_end_offsets(store: Objects, checkpoint: str, batch: int) -> dict[str, dict[str, int]] | None:
    """Where a batch ends: topic to partition (as text) to the first offset that is not part of it.

    :returns: None when the checkpoint knows no such batch.
    :raises StartRefused: the file is cut off.
    """
    uri = f"{checkpoint}/offsets/{batch}"
    body = store.get(uri)
    if body is None:
        return None
    # Three lines: the format's version, the batch's metadata, and one line for our one source.
    lines = body.decode().splitlines()
    try:
        offsets: dict[str, dict[str, int]] = json.loads(lines[2])
    except (IndexError, ValueError):
        raise _cut_off(uri, body) from None
    return offsets


def approve(
    checkpoint: str,
    facts: CheckpointFacts,
    pointer_uri: str,
    start: StartDecision,
    table: TableFacts,
) -> None:
    """Refuse a start that would lose or double data.

    :param checkpoint: s3:// address of the checkpoint's folder.
    :raises StartRefused: naming what is missing or too much, and what to do next.
    """
    reset = _RESET.format(pointer=pointer_uri)
    if not facts.empty and facts.query_id is None:
        raise StartRefused(
            f"checkpoint {checkpoint}",
            f"offsets up to batch {facts.newest_offsets} without the file metadata",
            "the metadata with the query id, by which the tables know what they hold already",
            f"restore {checkpoint}/metadata, or {reset}",
        )
    if facts.empty:
        if table.files and table.version > start.table_version:
            raise StartRefused(
                f"checkpoint {checkpoint}",
                f"no offsets, while the events table has rows (version {table.version})",
                f"the offsets of the batches that wrote them; the recorded start decision knows the "
                f"table only up to version {start.table_version}",
                f"restore the checkpoint, or {reset}",
            )
        return
    if facts.newest_offsets is None or (facts.newest_commit or 0) > facts.newest_offsets:
        raise StartRefused(
            f"checkpoint {checkpoint}",
            f"batch {facts.newest_commit} done, but offsets only up to {facts.newest_offsets}",
            "the offsets of each batch",
            f"restore {checkpoint}/offsets, or {reset}",
        )
    if facts.newest_commit is not None and table.version == NO_TABLE:
        raise StartRefused(
            "events table",
            "none",
            f"the table that batches up to {facts.newest_commit} of {checkpoint} were written to",
            f"restore the table, or {reset}",
        )
    if table.batch is not None and table.batch > facts.newest_offsets:
        # The table would take the next batches for ones that it has already, and skip their rows.
        raise StartRefused(
            f"checkpoint {checkpoint}",
            f"offsets up to batch {facts.newest_offsets}, while the events table holds batch "
            f"{table.batch} of the same query",
            "a checkpoint not older than the table",
            f"restore the newest checkpoint, or {reset}",
        )


def starting_offsets(start: StartDecision, topic: str) -> str:
    """The decision in the words of Spark's Kafka source (used only while the checkpoint is empty)."""
    if isinstance(start.starting_offsets, Mapping):
        return json.dumps({topic: start.starting_offsets})
    return start.starting_offsets


def _query_id(uri: str, metadata: bytes) -> str:
    try:
        return str(json.loads(metadata)["id"])
    except (ValueError, KeyError, TypeError):
        raise _cut_off(uri, metadata) from None


def _require_whole(store: Objects, uri: str) -> None:
    body = store.get(uri) or b""
    lines = body.decode(errors="replace").splitlines()
    try:
        if lines[0] != "v1" or len(lines) < 2:
            raise ValueError
        for line in lines[1:]:
            json.loads(line)
    except (IndexError, ValueError):
        raise _cut_off(uri, body) from None


def _cut_off(uri: str, body: bytes) -> StartRefused:
    return StartRefused(
        uri,
        f"{len(body)} bytes that are no whole file of a checkpoint",
        "a file as Spark wrote it",
        "restore it from a backup of the checkpoint",
    )
