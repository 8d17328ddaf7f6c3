"""Cluster ids and releases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import identity, release
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused


def test_a_root_has_one_cluster_id_and_two_roots_have_two(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert identity.cluster_id(str(tmp_path)) == identity.cluster_id(f"{tmp_path}/") == identity.cluster_id(str(link))
    made = {identity.cluster_id(f"/sandbox/{number}") for number in range(500)}
    assert len(made) == 500
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", each) for each in made)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout" / "pipeline"
    (folder / "sub" / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "sub" / "job.py").write_text("x = 1\n")
    (folder / "sub" / "__pycache__" / "job.pyc").write_bytes(b"junk")
    return folder


def test_a_release_is_the_package_without_its_caches(package: Path, tmp_path: Path) -> None:
    planned, missing = release.ensure(str(package), str(tmp_path / "releases"), check=True)
    assert missing
    assert not (tmp_path / "releases").exists()
    path, changed = release.ensure(str(package), str(tmp_path / "releases"))
    assert (path, changed) == (planned, True)
    files = {str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file()}
    assert files == {"pipeline/__init__.py", "pipeline/sub/job.py"}
    assert release.ensure(str(package), str(tmp_path / "releases")) == (path, False)
    assert [entry.name for entry in (tmp_path / "releases").iterdir()] == [Path(path).name]


def test_a_change_is_another_release_beside_the_first(package: Path, tmp_path: Path) -> None:
    first, _ = release.ensure(str(package), str(tmp_path / "releases"))
    (package / "sub" / "job.py").write_text("x = 2\n")
    second, changed = release.ensure(str(package), str(tmp_path / "releases"))
    assert changed
    assert second != first
    assert (Path(first) / "pipeline" / "sub" / "job.py").read_text() == "x = 1\n"


def test_caches_that_a_running_service_leaves_do_not_count(package: Path, tmp_path: Path) -> None:
    path, _ = release.ensure(str(package), str(tmp_path / "releases"))
    (Path(path) / "pipeline" / "__pycache__").mkdir()
    (Path(path) / "pipeline" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert release.ensure(str(package), str(tmp_path / "releases")) == (path, False)


def test_a_release_that_was_changed_is_refused(package: Path, tmp_path: Path) -> None:
    path, _ = release.ensure(str(package), str(tmp_path / "releases"))
    (Path(path) / "pipeline" / "sub" / "job.py").write_text("x = 3\n")
    with pytest.raises(Refused, match="found files with the digest"):
        release.ensure(str(package), str(tmp_path / "releases"))


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="found no Python package"):
        release.ensure(str(tmp_path), str(tmp_path / "releases"))
