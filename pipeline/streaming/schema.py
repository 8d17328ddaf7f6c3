"""What an event must be: the JSON schema as Spark expressions, evaluated in the JVM.

A message is either a row of the events table or a dead letter with a reason; nothing in it can fail
a batch.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_KINDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "date-time": "an RFC 3339 time in UTC",
    "numbers": "an object of numbers",
}
_SQL_TYPES = {
    "string": "string",
    "integer": "bigint",
    "number": "double",
    "date-time": "timestamp",
    "numbers": "map<string,double>",
}
# The names of JSON types as Spark's schema_of_variant says them.
_VARIANT_TYPES = {
    "string": r"^STRING$",
    "integer": r"^BIGINT$",
    "number": r"^(BIGINT|DOUBLE|FLOAT|DECIMAL.*)$",
    "date-time": r"^STRING$",
    "numbers": r"^OBJECT<",
}
_UNDERSTOOD = {
    "string": {"minLength", "maxLength", "pattern"},
    "date-time": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum"},
    "number": {"minimum", "maximum"},
    "numbers": {"minProperties", "additionalProperties"},
}
_ANNOTATIONS = {"type", "description", "title", "examples"}
_ROOT = {
    "$schema", "$id", "title", "description", "type", "required", "properties",
    "additionalProperties",
}  # fmt: skip

KAFKA_COLUMNS = {
    "topic": "string",
    "partition": "int",
    "offset": "bigint",
    "kafka_timestamp": "timestamp",
    "ingest_date": "date",
}
"""Columns that both tables take from Kafka. ``ingest_date`` is the day (UTC) of the message's Kafka
timestamp, by which the events are partitioned: device clocks can be anything, and each odd date
would be a partition of its own."""
DEAD_LETTER_COLUMNS = {
    "reason": "string",
    **KAFKA_COLUMNS,
    "key": "binary",
    "value": "binary",
}
"""Columns of the dead letters: why, from where, and the message as it was."""


@dataclass(frozen=True)
class EventField:
    """One field of an event.

    :param name: name in the JSON object and of the column.
    :param kind: string, integer, number, date-time or numbers (an object of numbers).
    :param required: whether it may be absent; null is never allowed.
    :param least: smallest value, length or number of properties; None for no bound.
    :param most: likewise the largest.
    :param pattern: regular expression that a text must match somewhere; None for any text.
    """

    name: str
    kind: str
    required: bool
    least: float | None = None
    most: float | None = None
    pattern: str | None = None


def event_fields(schema: dict[str, Any]) -> list[EventField]:
    """Read the fields from a JSON schema.

    Understands flat objects of strings, integers, numbers, RFC 3339 times and objects of numbers,
    with bounds. What it does not understand it refuses, because ignoring a rule would let through
    what the rule forbids.

    :param schema: the content of ``config/schemas/iot-event.json``.
    :raises ConfigError: a keyword or type that is not understood.
    """
    _only(set(schema), _ROOT, "event_schema")
    if schema.get("type") != "object" or schema.get("additionalProperties", True) is not True:
        raise ConfigError("event_schema", "another root", "type object that allows additional properties")
    properties = schema.get("properties") or {}
    required = set(schema.get("required", ()))
    _only(required, set(properties), "event_schema.required")
    if not required:
        raise ConfigError("event_schema.required", "nothing", "at least one required field")
    return [_field(name, rules, name in required) for name, rules in properties.items()]


def _field(name: str, rules: dict[str, Any], required: bool) -> EventField:
    where = f"event_schema.properties.{name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in KAFKA_COLUMNS:
        raise ConfigError(where, "that name", f"snake_case and none of {', '.join(KAFKA_COLUMNS)}")
    kind = str(rules.get("type"))
    if kind == "string" and rules.get("format") == "date-time":
        kind = "date-time"
    if kind == "object" and rules.get("additionalProperties") == {"type": "number"}:
        kind = "numbers"
    if kind not in _KINDS:
        raise ConfigError(f"{where}.type", kind, "string, integer, number or an object of numbers")
    _only(set(rules), _UNDERSTOOD[kind] | _ANNOTATIONS, where)
    bounds = {
        "least": ("minLength", "minimum", "minProperties"),
        "most": ("maxLength", "maximum"),
    }
    found = {bound: next((rules[word] for word in words if word in rules), None) for bound, words in bounds.items()}
    return EventField(name, kind, required, **found, pattern=rules.get("pattern"))


def _only(found: set[str], allowed: set[str], where: str) -> None:
    unknown = sorted(found - allowed)
    if unknown:
        raise ConfigError(where, ", ".join(unknown), f"only {', '.join(sorted(allowed))}")


def event_columns(fields: list[EventField]) -> dict[str, str]:
    """Columns of the events table: name to Spark SQL type, in order."""
    return {**{field.name: _SQL_TYPES[field.kind] for field in fields}, **KAFKA_COLUMNS}


# Spark's JSON parser stops after the first value, so that what follows it would pass unseen. Each
# message is therefore read as the first element of an array whose second is a word that no sender
# can know: only if the word is found there is the message one JSON value and nothing else.
_END = uuid.uuid4().hex


def judge(messages: DataFrame, fields: list[EventField], max_bytes: int) -> DataFrame:
    """Judge each message.

    :param messages: rows of Spark's Kafka source (key, value, topic, partition, offset, timestamp).
    :param max_bytes: a larger value is a dead letter unread.
    :returns: one row for each message: ``reason`` (null for an event), the columns of the events
        table (null for a dead letter), and ``key`` and ``value`` as they came.
    """
    from pyspark.sql import functions as fn

    text = fn.col("value").cast("string")
    readable = (fn.octet_length("value") <= max_bytes) & fn.is_valid_utf8(text)
    wrapped = fn.try_parse_json(fn.concat(fn.lit("["), text, fn.lit(f',"{_END}"]')))
    parts = messages.select(
        "key",
        "value",
        "topic",
        "partition",
        "offset",
        fn.col("timestamp").alias("kafka_timestamp"),
        fn.to_date("timestamp").alias("ingest_date"),
        fn.when(readable, wrapped).alias("wrapped"),
    )
    whole = fn.try_variant_get("wrapped", "$[1]", "string") == _END
    parts = parts.select("*", fn.when(whole, fn.try_variant_get("wrapped", "$[0]", "variant")).alias("document"))
    parts = parts.select(
        "*",
        fn.schema_of_variant("document").alias("document_type"),
        *(_raw(field).alias(f"raw_{field.name}") for field in fields),
    )
    parts = parts.select(
        "*",
        *(fn.schema_of_variant(f"raw_{field.name}").alias(f"type_{field.name}") for field in fields),
        *(_value(field).alias(f"good_{field.name}") for field in fields),
    )
    checks = [*_document_checks(max_bytes), *(c for field in fields for c in _checks(field))]
    reason = fn.coalesce(*(fn.when(wrong, text) for wrong, text in checks), fn.lit(None))
    return parts.select(
        reason.alias("reason"),
        *(fn.col(f"good_{field.name}").alias(field.name) for field in fields),
        *KAFKA_COLUMNS,
        "key",
        "value",
    )


def _raw(field: EventField) -> Column:
    from pyspark.sql import functions as fn

    return fn.try_variant_get("document", f"$.{field.name}", "variant")


def _value(field: EventField) -> Column:
    from pyspark.sql import functions as fn

    if field.kind == "date-time":
        text = fn.try_variant_get("document", f"$.{field.name}", "string")
        return fn.when(text.rlike(field.pattern or ""), text.try_cast("timestamp"))
    return fn.try_variant_get("document", f"$.{field.name}", _SQL_TYPES[field.kind])


def _document_checks(max_bytes: int) -> list[tuple[Column, Column]]:
    from pyspark.sql import functions as fn

    value, size = fn.col("value"), fn.octet_length("value")
    found = fn.substring("document_type", 1, 40)
    return [
        (value.isNull(), fn.lit("value: null")),
        (
            size > max_bytes,
            fn.concat(fn.lit("value: found "), size, fn.lit(f" bytes, allowed at most {max_bytes}")),
        ),
        (fn.col("document").isNull(), fn.lit("value: not one JSON value in UTF-8 without doubled names")),
        (
            ~fn.col("document_type").startswith("OBJECT<"),
            fn.concat(fn.lit("value: found "), found, fn.lit(", expected an object")),
        ),
    ]


def _checks(field: EventField) -> list[tuple[Column, Column]]:
    from pyspark.sql import functions as fn

    name, kind = field.name, field.kind
    found, good = fn.col(f"type_{name}"), fn.col(f"good_{name}")
    present = found.isNotNull()
    checks = []
    if field.required:
        checks.append((~present, fn.lit(f"{name}: missing")))
    checks.append((found == "VOID", fn.lit(f"{name}: null")))
    wrong_type = fn.concat(fn.lit(f"{name}: found "), fn.substring(found, 1, 40), fn.lit(f", expected {_KINDS[kind]}"))
    checks.append((~found.rlike(_VARIANT_TYPES[kind]), wrong_type))
    if kind == "numbers":
        raw = fn.try_variant_get("document", f"$.{name}", "map<string,variant>")
        numbers = fn.forall(fn.map_values(raw), lambda v: fn.schema_of_variant(v).rlike(_VARIANT_TYPES["number"]))
        finite = fn.forall(fn.map_values(good), _finite)
        checks.append((~fn.coalesce(numbers & finite, fn.lit(False)) & present, _wanted(field)))
    elif kind == "number":
        checks.append((~fn.coalesce(_finite(good), fn.lit(False)) & present, _wanted(field)))
    else:
        checks.append((good.isNull() & present, _wanted(field)))
    measured = {"string": fn.char_length, "date-time": fn.char_length, "numbers": fn.size}
    text = fn.try_variant_get("document", f"$.{name}", "string")
    size = measured[kind](good if kind == "numbers" else text) if kind in measured else good
    bounds = []
    if field.least is not None:
        bounds.append(size < field.least)
    if field.most is not None:
        bounds.append(size > field.most)
    if field.pattern is not None:
        bounds.append(~text.rlike(field.pattern))
    if bounds:
        checks.append((reduce(lambda a, b: a | b, bounds) & present, fn.lit(_bounds(field))))
    return checks


def _bounds(field: EventField) -> str:
    parts = [] if field.least is None else [f"from {field.least}"]
    parts += [] if field.most is None else [f"to {field.most}"]
    parts += [] if field.pattern is None else [f"matching {field.pattern}"]
    return f"{field.name}: out of bounds, allowed {' '.join(parts)}"


def _finite(value: Column) -> Column:
    from pyspark.sql import functions as fn

    return (fn.abs(value) < fn.lit(float("inf"))) & ~fn.isnan(value)


def _wanted(field: EventField) -> Column:
    from pyspark.sql import functions as fn

    return fn.lit(f"{field.name}: expected {_KINDS[field.kind]}")
