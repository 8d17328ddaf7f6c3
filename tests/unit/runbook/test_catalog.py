from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import catalog
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused


def procedure(**parameters: catalog.Parameter) -> catalog.Procedure:
    return catalog.Procedure(
        name="x",
        title="X",
        section="S",
        severity="P1",
        risk="safe",
        deadline=60,
        parameters=parameters,
    )


@pytest.mark.parametrize("value", ["all", "unhealthy"])
def test_choice_is_accepted(value: str) -> None:
    catalog.Parameter("restart", "choice", "t", choices=("unhealthy", "all")).check(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("choice", "everything"),
        ("timestamp", "yesterday"),
        ("timestamp", "2030-01-31T03:00:00"),
        ("timestamp", 5),
        ("integer", "abc"),
        ("integer", "2.5"),
        ("integer", True),
        ("integer", -1),
        ("integer", 91),
        ("number", ""),
        ("string", ""),
    ],
)
def test_bad_value_is_refused_with_name_value_and_allowed(kind: str, value: object) -> None:
    parameter = catalog.Parameter("days", kind, "t", choices=("all",), minimum=0, maximum=90)
    with pytest.raises(Refused) as caught:
        parameter.check(value)
    assert "parameter days" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert parameter.allowed() in str(caught.value)


def test_misspelt_parameter_is_refused_and_the_near_one_offered() -> None:
    one = procedure(restart=catalog.Parameter("restart", "choice", "t", choices=("all",)))
    with pytest.raises(Refused, match="did you mean restart"):
        one.check_parameters({"restrat": "all"}, known=())


def test_inventory_variables_and_common_parameters_may_be_given() -> None:
    given = {"kafka_heap": "1g", "reason": "drill", "ansible_user": "x", "without_lease": "ops-1"}
    procedure().check_parameters(given, known=("kafka_heap",))


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    text = "section: S\nprocedures:\n  a: {title: T, severity: P1, risk: safe, deadline: 1}\n"
    (tmp_path / "1.yml").write_text(text)
    (tmp_path / "2.yml").write_text(text)
    with pytest.raises(Refused, match="catalog entry a"):
        catalog.load(tmp_path)


@pytest.mark.parametrize(
    ("schedule", "seconds"), [(None, None), ("*/15 * * * *", 900.0), ("0 7 * * *", 86400.0), ("0 6 * * 1", 604800.0)]
)
def test_a_schedule_says_how_long_it_may_be_until_the_next_run(schedule: str | None, seconds: float | None) -> None:
    assert dataclasses.replace(procedure(), schedule=schedule).period_seconds() == seconds


def test_an_empty_value_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="extra variable kafka_heap: found an empty value"):
        procedure().check_parameters({"kafka_heap": ""}, known=("kafka_heap",))
