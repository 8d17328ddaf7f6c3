"""The Delta tables, read with delta-rs: no JVM, fractions of a second.

The business view of the events leaves out the probes' canaries; whoever reports on events reads
through :data:`BUSINESS_FILTER` or :func:`business_events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clients import delta_storage_options
from pipeline.config import S3Endpoint, S3Login
from pipeline.errors import Unavailable
from pipeline.events import CANARY_PREFIX, rfc3339

if TYPE_CHECKING:
    from deltalake import DeltaTable

BUSINESS_FILTER = f"device_id NOT LIKE '{CANARY_PREFIX}%'"
"""The business view as a condition in SQL, for Spark and DuckDB."""


def open_table(uri: str, endpoint: S3Endpoint, login: S3Login) -> DeltaTable | None:
    """Open a table.

    :param uri: s3:// address of the table.
    :returns: None when there is no table yet.
    :raises Unavailable: the object store does not answer or refuses.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        return DeltaTable(uri, storage_options=delta_storage_options(endpoint, login))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise Unavailable(uri, str(error), "a readable Delta table") from error


def business_events(table: DeltaTable, columns: list[str] | None = None) -> pa.Table:
    """The events without the canaries of the probes.

    :param columns: which columns; None for all.
    """
    canary = pc.starts_with(pc.field("device_id"), CANARY_PREFIX)
    return table.to_pyarrow_dataset().to_table(columns=columns, filter=~canary)


@dataclass(frozen=True)
class TableFacts:
    """What the log of a table says, without reading its data.

    :param uri: s3:// address.
    :param version: newest version; None when there is no table.
    :param rows: rows of that version.
    :param files: data files of that version.
    :param bytes: their size.
    :param newest_event_time: RFC 3339 (UTC); None when there are no rows or no such column.
    """

    uri: str
    version: int | None
    rows: int
    files: int
    bytes: int
    newest_event_time: str | None

    def as_json(self) -> dict[str, Any]:
        """The facts as a JSON object."""
        return dict(self.__dict__)


def facts(uri: str, table: DeltaTable | None) -> TableFacts:
    """Read the facts of a table from the statistics in its log."""
    if table is None:
        return TableFacts(uri, None, 0, 0, 0, None)
    actions = pa.table(table.get_add_actions(flatten=True))
    newest: datetime | None = None
    if "max.event_time" in actions.column_names:
        newest = pc.max(actions["max.event_time"]).as_py()
    return TableFacts(
        uri=uri,
        version=table.version(),
        rows=pc.sum(actions["num_records"]).as_py() or 0,
        files=actions.num_rows,
        bytes=pc.sum(actions["size_bytes"]).as_py() or 0,
        newest_event_time=None if newest is None else rfc3339(newest),
    )
