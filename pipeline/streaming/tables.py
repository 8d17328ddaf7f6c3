"""The tables that the stream writes: made before the first batch, looked at before each start.

By delta-rs, so that it happens beside the start of the JVM and costs a tenth of a second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pipeline.clients import delta_storage_options
from pipeline.config import StreamingConfig
from pipeline.errors import StartRefused, Unavailable
from pipeline.streaming.checkpoint import NO_TABLE, TableFacts
from pipeline.streaming.schema import DEAD_LETTER_COLUMNS
from pipeline.tables import open_table

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema
    from deltalake.schema import MapType, PrimitiveType

log = logging.getLogger(__name__)

_PROPERTIES = {
    # Each batch is a commit; Delta's default of a checkpoint every 10 would cost one second in
    # every tenth batch.
    "delta.checkpointInterval": "50",
    # A day has some 17,000 commits. The newest ones answer "up to where" (userMetadata), older
    # versions are what backups are for.
    "delta.logRetentionDuration": "interval 7 days",
}


class EventsTable:
    """The events table and its companion, the dead letters.

    :param config: the job's configuration.
    :param columns: columns of the events table, name to Spark SQL type.
    """

    PARTITION_BY: ClassVar[list[str]] = ["ingest_date"]

    def __init__(self, config: StreamingConfig, columns: Mapping[str, str]) -> None:
        self._s3 = config.endpoints.s3
        self._login = config.credentials.s3
        self._events = config.endpoints.tables.events
        self._dead_letters = config.endpoints.tables.dead_letters
        self._columns = columns
        self._table = open_table(self._events, self._s3, self._login)

    def facts(self, query_id: str | None) -> TableFacts:
        """What of the events table matters for a start.

        :param query_id: of the checkpoint; None for a new one.
        """
        table = self._table
        if table is None:
            return TableFacts(NO_TABLE, 0, None)
        batch = None if query_id is None else table.transaction_version(query_id)
        return TableFacts(table.version(), len(table.file_uris()), batch)

    def require(self) -> None:
        """Make the tables that are not there, and hold the others against what will be written.

        :raises StartRefused: a table has other columns.
        :raises Unavailable: the object store does not answer.
        """
        dead = open_table(self._dead_letters, self._s3, self._login)
        for uri, table, columns, partition_by in (
            (self._events, self._table, self._columns, self.PARTITION_BY),
            (self._dead_letters, dead, DEAD_LETTER_COLUMNS, []),
        ):
            if table is None:
                self._create(uri, columns, partition_by)
            else:
                require_columns(uri, table, columns)

    def _create(self, uri: str, columns: Mapping[str, str], partition_by: list[str]) -> None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            DeltaTable.create(
                uri,
                _schema(columns),
                mode="ignore",
                partition_by=partition_by,
                configuration=_PROPERTIES,
                storage_options=delta_storage_options(self._s3, self._login),
            )
        except (DeltaError, OSError) as error:
            raise Unavailable(uri, str(error), "a new table") from error
        log.info("made the table %s", uri)


def require_columns(uri: str, table: DeltaTable, columns: Mapping[str, str]) -> None:
    """Refuse a table that the stream's rows do not fit.

    :param columns: name to Spark SQL type.
    :raises StartRefused: naming the columns that are missing, too many, or of another type.
    """
    found = {field.name: field.type for field in table.schema().fields}
    wanted = {field.name: field.type for field in _schema(columns).fields}
    different = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if different:
        raise StartRefused(
            uri,
            "; ".join(f"{name}: {found.get(name, 'no column')}" for name in different),
            "; ".join(f"{name}: {wanted.get(name, 'no column')}" for name in different),
            "put the event schema back, or change the table's columns first",
        )


def _schema(columns: Mapping[str, str]) -> Schema:
    from deltalake import Field, Schema

    return Schema([Field(name, _delta_type(kind)) for name, kind in columns.items()])


def _delta_type(kind: str) -> PrimitiveType | MapType:
    from deltalake.schema import MapType, PrimitiveType

    names = {"int": "integer", "bigint": "long"}
    if kind.startswith("map<"):
        key, value = kind.removeprefix("map<").removesuffix(">").split(",")
        return MapType(_delta_type(key), _delta_type(value), value_contains_null=True)
    return PrimitiveType(names.get(kind, kind))
