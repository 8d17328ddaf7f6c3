"""Python sets: they hold what pipeline imports, and a Python without anything else can use them."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import python_set
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused

PIPELINE = Path(__file__).resolve().parents[3] / "pipeline"


def imported(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def test_the_sets_hold_what_pipeline_imports() -> None:
    foreign = set(imported(PIPELINE)) - set(sys.stdlib_module_names) - {"pipeline"}
    assert {"kafka", "deltalake", "pyspark"} <= foreign, "nothing was read"
    names = importlib.metadata.packages_distributions()
    held = {dist.metadata["Name"] for name in python_set.SETS for dist in python_set.closure(python_set.SETS[name])}
    assert {name for name in foreign if not set(names.get(name, [])) & held} == set()


def test_a_closure_holds_what_is_required_and_no_extra() -> None:
    found = {dist.metadata["Name"].lower() for dist in python_set.closure(["boto3"])}
    assert {"boto3", "botocore", "s3transfer", "jmespath", "urllib3", "six"} <= found
    assert "awscrt" not in found
    with pytest.raises(Refused, match="Python package no-such-thing: found nothing installed"):
        python_set.closure(["no-such-thing"])


def test_a_set_is_made_once_and_works_without_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(python_set.SETS, "small", ("pydantic", "prometheus-client"))
    planned, missing = python_set.ensure("small", str(tmp_path / "sets"), check=True)
    assert missing
    assert not (tmp_path / "sets").exists()
    path, changed = python_set.ensure("small", str(tmp_path / "sets"))
    assert (path, changed) == (planned, True)
    assert python_set.ensure("small", str(tmp_path / "sets")) == (path, False)
    assert sorted(entry.name for entry in (tmp_path / "sets").iterdir()) == [".small.lock", Path(path).name]
    code = "import prometheus_client, pydantic; print(pydantic.__file__, pydantic.__cached__)"
    # -S: without the packages that this Python has itself.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    file, cached = done.stdout.split()
    assert file == f"{path}/pydantic/__init__.py"
    # Code that is not compared with its source, so that no copy is ever compiled again.
    assert int.from_bytes(Path(cached).read_bytes()[4:8], "little") == 0b01
    assert not list(Path(path).glob("*.pth"))


def test_programs_of_a_package_stay_executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PySpark starts its JVM by a script of its own."""
    (package,) = (dist for dist in python_set.closure(["pyspark"]) if dist.metadata["Name"] == "pyspark")
    script = "pyspark/bin/spark-submit"
    (place,) = (place for name, _, place in python_set._files(package) if name == script)
    monkeypatch.setattr(python_set, "_files", lambda _: [(script, "", place)])
    python_set._copy(package, tmp_path)
    assert os.access(tmp_path / script, os.X_OK)


def test_another_version_is_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    distributions = python_set.closure(["prometheus-client"])
    one = python_set.set_digest(distributions)
    assert python_set.set_digest(distributions) == one
    assert python_set.set_digest(python_set.closure(["six"])) != one
    monkeypatch.setattr(python_set, "python_version", lambda: "3.99")
    assert python_set.set_digest(distributions) != one


def test_a_set_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"found 'flink', expected pipeline \| spark"):
        python_set.ensure("flink", str(tmp_path))
