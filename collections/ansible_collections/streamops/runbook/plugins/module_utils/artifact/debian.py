"""Artifacts out of Debian packages, fetched and unpacked without root and without touching the machine's own apt."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from ansible_collections.streamops.runbook.plugins.module_utils.artifact.base import (
    MANIFEST,
    Artifact,
    Bench,
    Check,
    first_line,
    leaves,
    recipe_of,
    sha256_of,
)
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.sums import read_sums
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.tools import Tools
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ArtifactError

UNPACKED = "root"

# The machine's sources, keys and proxies, with lists and cache of our own: neither root nor an
# earlier update is needed, and the machine's own lists stay what they are. Nobody but us can
# enter the folder, so apt's user for downloads can't either; hooks are about the machine's lists.
_APT_CONF = """\
Dir::State::Lists "{lists}";
Dir::Cache "{cache}";
APT::Sandbox::User "root";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


@dataclass(frozen=True)
class DebianPackages(Artifact):
    """Files out of Debian packages, under ``root/``.

    :param release: the one that the packages are of, as os-release says it: ``debian bookworm``.
    :param architecture: as dpkg says it: ``amd64``.
    :param sums: sha256 in hex by file name, ``<name>_<version>_<architecture>.deb`` as apt writes it.
    :param keep: shell patterns of the unpacked paths that are kept, relative to ``root/``; ``*``
        crosses folders. All else is dropped, so that little is left to verify at each use.
    """

    release: str
    architecture: str
    sums: Mapping[str, str]
    keep: Sequence[str]

    @classmethod
    def parse(cls, name: str, entry: Mapping[str, Any], base: Path) -> Self:
        path = base / entry["sums"]
        parsed = cls(
            name=name,
            version=entry["version"],
            release=entry["release"],
            architecture=entry["architecture"],
            sums=read_sums(path),
            keep=tuple(entry["keep"]),
        )
        form = rf"[^_]+_[^_]+_({re.escape(parsed.architecture)}|all)\.deb"
        for file in parsed.sums:
            if not re.fullmatch(form, file):
                raise ArtifactError(str(path), repr(file), f"<name>_<version>_{parsed.architecture} or _all.deb")
        return parsed

    @classmethod
    def checks(cls, tools: Tools, missing: Sequence[Self]) -> list[Check]:
        def client(name: str, package: str) -> str:
            # On another release the way to a missing program would lead nowhere.
            for artifact in missing:
                artifact.check_release(tools)
            path = tools.which(name)
            if path is None:
                raise ArtifactError(name, "no such program", "Debian's own", f"put its package `{package}` back")
            return path

        def dpkg() -> str:
            path = client("dpkg", "dpkg")
            for artifact in missing:
                artifact.check_architecture(tools, path)
            return path

        return [
            ("apt-get", lambda: client("apt-get", "apt")),
            ("dpkg-deb", lambda: client("dpkg-deb", "dpkg")),
            ("dpkg", dpkg),
        ]

    def check_release(self, tools: Tools) -> None:
        """Refuse a machine of another release.

        :raises ArtifactError: naming the release found and the one listed.
        """
        try:
            said = tools.release()
        except OSError as error:
            raise self._elsewhere(f"no os-release ({error})") from error
        found = f"{said.get('ID', 'unknown')} {said.get('VERSION_CODENAME', 'without a codename')}"
        if found != self.release:
            raise self._elsewhere(found)

    def check_architecture(self, tools: Tools, dpkg: str) -> None:
        """Refuse a machine of another architecture.

        :raises ArtifactError: naming the architecture found and the one listed.
        """
        _, text = tools.capture([dpkg, "--print-architecture"])
        # Warnings, as about a configuration of dpkg that can't be read, come before the answer.
        found = (text.strip().splitlines() or ["unknown"])[-1]
        if found != self.architecture:
            raise self._elsewhere(f"{self.release} {found}")

    def _elsewhere(self, found: str) -> ArtifactError:
        return ArtifactError(
            f"artifact {self.name} {self.version}, this machine",
            found,
            f"{self.release} {self.architecture}, whose packages are listed",
            f"run it on such a machine, or list the packages of this one for {self.name} in the catalog of artifacts.",
        )

    @property
    def recipe(self) -> str:
        """Sha256 in hex of all that decides what is unpacked."""
        return recipe_of([self.release, self.architecture, sorted(self.sums.items()), list(self.keep)])

    def expected(self, home: Path) -> dict[str, str]:
        manifest = self.read_manifest(home, self.recipe)
        try:
            files = {path: f"sha256 {digest}" for path, digest in manifest["files"].items()}
            links = {path: f"link to {target}" for path, target in manifest["links"].items()}
        except (KeyError, AttributeError) as error:
            raise self.damaged(home, home / MANIFEST, f"{error!r}", "the manifest of the build") from error
        return files | links

    def make(self, bench: Bench) -> None:
        work = bench.staging / "apt"
        packages = self._download(bench, work)
        root = bench.staging / UNPACKED
        root.mkdir()
        bench.notify(f"{self.name} {self.version}: unpacking {len(packages)} packages")
        for package in packages:
            code, text = bench.tools.capture([bench.clients["dpkg-deb"], "-x", str(package), str(root)])
            if code != 0:
                raise ArtifactError(
                    f"artifact {self.name}, dpkg-deb -x {package.name}", f"exit code {code}, {text[-400:]}"
                )
        shutil.rmtree(work)
        self._prune(root)
        self._mend_links(root)
        files: dict[str, str] = {}
        links: dict[str, str] = {}
        for path in leaves(root):
            name = str(path.relative_to(bench.staging))
            if path.is_symlink():
                links[name] = str(path.readlink())
            else:
                files[name] = sha256_of(path)
        _, version = bench.tools.capture([bench.clients["dpkg-deb"], "--version"])
        self.write_manifest(bench.staging, self.recipe, first_line(version), files=files, links=links)

    def _download(self, bench: Bench, work: Path) -> list[Path]:
        """Fetch every package and compare it with its sha256; returns their paths."""
        lists, cache, folder, conf = work / "lists", work / "cache", work / "packages", work / "apt.conf"
        for path in (lists / "partial", cache / "archives" / "partial", folder):
            path.mkdir(parents=True)
        conf.write_text(_APT_CONF.format(lists=lists, cache=cache), encoding="utf-8")
        apt, options = bench.clients["apt-get"], ["--quiet", f"--config-file={conf}"]
        bench.run([apt, "update", *options], folder, "reading the package lists of this machine's sources")
        bench.run(
            [apt, "download", *options, *(_reference(file) for file in self.sums)],
            folder,
            f"downloading {len(self.sums)} Debian packages",
            next_step=(
                "when the network was the cause, run the same command again; a version that the sources no longer "
                "have was replaced by a newer one there, which then has to be listed in its place."
            ),
        )
        packages = [folder / file for file in self.sums]
        for package in packages:
            digest = sha256_of(package) if package.is_file() else None
            if digest != self.sums[package.name]:
                raise ArtifactError(
                    f"artifact {self.name} {self.version}, package {package.name}",
                    f"sha256 {digest}" if digest else "no such file after the download",
                    f"sha256 {self.sums[package.name]}",
                    "ask where the apt sources of this machine get their packages from.",
                )
        return packages

    def _prune(self, root: Path) -> None:
        """Drop what no pattern keeps, and the folders that are empty then."""
        idle = set(self.keep)
        for path in list(leaves(root)):
            name = str(path.relative_to(root))
            matching = {pattern for pattern in self.keep if fnmatchcase(name, pattern)}
            idle -= matching
            if not matching:
                path.unlink()
        if idle:
            raise ArtifactError(
                f"artifact {self.name} {self.version}, keep",
                f"no unpacked path that matches {', '.join(sorted(idle))}",
                "at least one for each pattern",
            )
        for folder, _, _ in os.walk(root, topdown=False):
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()

    def _mend_links(self, root: Path) -> None:
        """Make links that start at the machine's root start at ours; refuse those that lead nowhere or outside."""
        links = [path for path in leaves(root) if path.is_symlink()]
        for link in links:
            target = link.readlink()
            if target.is_absolute():
                inside = root / target.relative_to("/")
                link.unlink()
                link.symlink_to(os.path.relpath(inside, link.parent))
        for link in links:
            try:
                resolved = link.resolve(strict=True)
            # A loop is a RuntimeError to Python 3.12 and older.
            except (OSError, RuntimeError):
                resolved = Path("/")
            if not resolved.is_relative_to(root.resolve()):
                raise ArtifactError(
                    f"artifact {self.name} {self.version}, link {link.relative_to(root)}",
                    f"target {link.readlink()}, which is not among what was unpacked and kept",
                    "a target under the same root",
                    "list the package that holds it, or keep it by a pattern.",
                )


def _reference(file: str) -> str:
    """What apt calls the package of a file name: ``name=version``."""
    name, version, _ = file.split("_")
    return f"{unquote(name)}={unquote(version)}"
