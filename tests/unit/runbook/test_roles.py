"""Every role says of each entry point what it takes, and means what its defaults say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted((Path(__file__).resolve().parents[3] / "roles").iterdir())


def load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text()) if path.exists() else {}
    assert isinstance(content, dict)
    return content


def specs(role: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_entry_point_has_its_block_and_no_block_is_left_over(role: Path) -> None:
    """A tasks file whose name begins with an underscore is a part of another, not an entry point."""
    assert set(specs(role)) == {path.stem for path in (role / "tasks").glob("[!_]*.yml")}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_entry_point_and_variable_is_described(role: Path) -> None:
    for entry, spec in specs(role).items():
        assert spec["short_description"], entry
        for name, option in spec.get("options", {}).items():
            assert option.get("description"), f"{entry}: {name}"
            assert option.get("type"), f"{entry}: {name}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_specs_agree(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml")
    described = set()
    for entry, spec in specs(role).items():
        for name, option in spec.get("options", {}).items():
            described.add(name)
            if option.get("required"):
                assert name not in defaults, f"{entry}: {name} is required and has a default"
            if "default" in option:
                assert defaults.get(name) == option["default"], f"{entry}: {name}"
    assert set(defaults) <= described, "defaults that no entry point takes"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_a_role_sets_carries_its_name(role: Path) -> None:
    assert all(name.startswith(f"{role.name}_") for name in load(role / "defaults" / "main.yml"))
    assert all(name.startswith(f"__{role.name}_") for name in load(role / "vars" / "main.yml"))
