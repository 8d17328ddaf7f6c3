"""A page that is carried out: its blocks in order, nothing of it left out."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
MANY = ROOT / "docs" / "many-machines.md"
PAGE = """\
# Title
## In every shell
```sh
export A=one
```
## 1. First
```sh
echo "$A" >out
```
prose
```
not to be carried out
```
## 2. Second
```sh
echo ~ >>out
```
```sh
false
echo never >>out
```
"""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "molecule" / "shared"))
    return importlib.import_module("page")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "page.md").write_text(PAGE)
    program = [sys.executable, str(ROOT / "molecule" / "shared" / "page.py"), "page.md", "--home", str(folder / "home")]
    return subprocess.run([*program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_steps_are_carried_out_with_what_every_shell_needs_and_end_at_the_first_failure(tmp_path: Path) -> None:
    assert run(tmp_path, "--steps", "1", "--replace", "one=two").returncode == 0
    assert (tmp_path / "out").read_text() == "two\n"
    assert run(tmp_path, "--steps", "2").returncode == 1
    assert (tmp_path / "out").read_text() == f"two\n{tmp_path / 'home'}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "3"], "step 3: found In every shell, 1, 2"),
        (["--steps", "1", "--replace", "three=3"], "'three': the page does not say so"),
    ],
)
def test_what_the_page_does_not_have_is_named(tmp_path: Path, arguments: list[str], named: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert named in done.stderr


@pytest.mark.parametrize("text", ["## Limits\n```sh\nls\n```\n", "## 1. One\n```sh\nls\n"])
def test_block_that_nobody_would_try_is_an_error(page: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="block"):
        page.blocks(text)


def test_the_page_of_many_machines_can_be_read_by_a_shell_and_its_inventory_by_ansible(page: ModuleType) -> None:
    found = page.blocks(MANY.read_text())
    assert list(found) == [page.ALWAYS, *(str(number) for number in range(1, 10))]
    whole = page.script(MANY.read_text(), list(found)[1:], {})
    assert subprocess.run(["bash", "-n", "-c", whole], check=False).returncode == 0
    # The same groups as in the example.
    shown = yaml.safe_load(whole.split("<<'END'\n")[1].split("\nEND\n")[0])["all"]["children"]
    example = yaml.safe_load((ROOT / "inventory" / "hosts" / "hosts.yml").read_text())["all"]["children"]
    assert list(shown) == list(example)
    assert shown["services"] == example["services"]
    for name in [word for word in whole.split() if word.startswith("playbooks/")]:
        assert (ROOT / name).is_file()


def test_the_line_that_adds_a_worker_adds_it_to_the_workers(page: ModuleType, tmp_path: Path) -> None:
    whole = page.blocks(MANY.read_text())
    inventory = tmp_path / "inventory" / "production"
    (inventory / "group_vars" / "all").mkdir(parents=True)
    (inventory / "group_vars" / "all" / "hosts.yml").write_text('kafka_cluster_id: ""\n')
    lines = [whole["2"][0], *whole["3"], whole["9"][0].splitlines()[0]]
    text = "\n".join(lines).replace("python ", f"{sys.executable} ")
    assert subprocess.run(["bash", "-euc", text], cwd=tmp_path, check=False).returncode == 0
    groups = yaml.safe_load((inventory / "hosts.yml").read_text())["all"]["children"]
    assert groups["spark_workers"]["hosts"] == {"spark-2": {"ansible_host": "10.20.0.16"}, "spark-1": None}
    assert "spark-2" not in groups["spark_master"]["hosts"]
    cluster = yaml.safe_load((inventory / "group_vars" / "all" / "hosts.yml").read_text())["kafka_cluster_id"]
    assert len(cluster) == 22
