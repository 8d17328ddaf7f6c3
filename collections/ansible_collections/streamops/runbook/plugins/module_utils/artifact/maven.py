"""Artifacts that Maven resolves: a folder of jars, each sha256 committed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ansible_collections.streamops.runbook.plugins.module_utils.artifact.base import Artifact, Bench, Check, first_line
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.sums import read_sums
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.tools import Tools
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ArtifactError

JAVA_MAJOR = 17


@dataclass(frozen=True)
class MavenBundle(Artifact):
    """Jars resolved by one pom.

    :param pom: the pom that names the jars.
    :param directory: folder of the jars inside the artifact.
    :param sums: sha256 in hex by file name: exactly the files that the folder must hold.
    """

    pom: Path
    directory: str
    sums: Mapping[str, str]

    @classmethod
    def parse(cls, name: str, entry: Mapping[str, Any], base: Path) -> Self:
        return cls(
            name=name,
            version=entry["version"],
            pom=base / entry["pom"],
            directory=entry["directory"],
            sums=read_sums(base / entry["sums"]),
        )

    @classmethod
    def checks(cls, tools: Tools, missing: Sequence[Self]) -> list[Check]:  # noqa: ARG003  the same for all
        return [("java", lambda: _java(tools)), ("mvn", lambda: _maven(tools))]

    def expected(self, home: Path) -> dict[str, str]:  # noqa: ARG002  all of it is committed
        return {f"{self.directory}/{name}": f"sha256 {digest}" for name, digest in self.sums.items()}

    def make(self, bench: Bench) -> None:
        command = [
            bench.clients["mvn"],
            "--batch-mode",
            "--no-transfer-progress",
            # Maven remembers a failed look-up and would not ask again within the day.
            "--update-snapshots",
            "--file",
            str(self.pom),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={bench.staging / self.directory}",
        ]
        bench.run(command, bench.staging, f"resolving {len(self.sums)} jars with Maven")


def _java(tools: Tools) -> str:
    wanted = f"a JDK of version {JAVA_MAJOR} or newer"
    install = "`apt-get install openjdk-17-jdk-headless` as root"
    path = tools.which("java")
    if path is None:
        raise ArtifactError("java", "no such program", wanted, install)
    _, text = tools.capture([path, "-version"])
    match = re.search(r'version "(\d+)', text)
    if match is None or int(match[1]) < JAVA_MAJOR:
        raise ArtifactError(f"java ({path})", first_line(text), wanted, install)
    return path


def _maven(tools: Tools) -> str:
    path = tools.which("mvn")
    if path is None:
        raise ArtifactError("mvn", "no such program", "Maven 3", "`apt-get install maven` as root")
    return path
