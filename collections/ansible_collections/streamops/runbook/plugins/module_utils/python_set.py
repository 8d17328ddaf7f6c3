"""Python sets: what a host's own Python needs to run the pipeline, copied from the controller's packages.

Hosts have no internet and no second list of versions: they run what the controller was locked to. A set holds
whole distributions, with everything that they need, in a folder for PYTHONPATH.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import importlib.metadata
import platform
import py_compile
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What is imported by ``pipeline``, by set: the second is half a gigabyte, and only the stream needs it.
SETS = {
    "pipeline": ("boto3", "deltalake", "kafka-python", "prometheus-client", "pyarrow", "pydantic"),
    "spark": ("pyspark",),
}


def python_version() -> str:
    """Whose compiled packages a set holds: major and minor version of this Python."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def closure(names: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """The named distributions and all that they require here, by name.

    :raises Refused: naming one that is not installed.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise Refused(
                f"Python package {name}", "nothing installed", "the locked version", "make venv, on the controller"
            ) from error
        for text in found[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return [found[name] for name in sorted(found)]


def _files(distribution: importlib.metadata.Distribution) -> list[tuple[str, str, Path]]:
    """Name, recorded hash and place of each file that belongs into a set.

    Programs stand outside of the packages' folder and are left out; so is compiled code, which is made anew.
    """
    return [
        (file.as_posix(), file.hash.value if file.hash else "", Path(str(file.locate())))
        for file in distribution.files or []
        if ".." not in file.parts and "__pycache__" not in file.parts and file.suffix != ".pth"
    ]


def set_digest(distributions: Iterable[importlib.metadata.Distribution]) -> str:
    """12 hexadecimal digits over this Python, this machine's kind, and every file as its package recorded it."""
    digest = hashlib.sha256(f"{python_version()} {platform.machine()}\n".encode())
    for distribution in distributions:
        digest.update(f"{distribution.metadata['Name']} {distribution.version}\n".encode())
        for name, recorded, _ in sorted(_files(distribution)):
            digest.update(f"{name} {recorded}\n".encode())
    return digest.hexdigest()[:12]


def ensure(name: str, root: str, *, check: bool = False) -> tuple[str, bool]:
    """Make the set ``<root>/<name>-<digest>`` unless it is there already; it appears whole, by one rename.

    :returns: its folder, and whether it was (or under ``check`` would be) made.
    :raises Refused: when there is no such set, or a package of it is not installed.
    :raises ServiceError: when the root can't be written.
    """
    if name not in SETS:
        raise Refused("Python set", repr(name), " | ".join(SETS))
    distributions = closure(SETS[name])
    target = Path(root) / f"{name}-{set_digest(distributions)}"
    if target.exists() or check:
        return str(target), not target.exists()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f".{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                # Another run has made it meanwhile.
                return str(target), False
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as folder:
                staged = Path(folder) / "set"
                for distribution in distributions:
                    _copy(distribution, staged)
                _compile(staged)
                staged.rename(target)
    except OSError as error:
        raise ServiceError(f"Python sets in {root}", error.strerror or str(error), "a folder to write to") from error
    return str(target), True


def _copy(distribution: importlib.metadata.Distribution, staged: Path) -> None:
    for name, _, place in _files(distribution):
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # With its permissions: pyspark starts its JVM by a script.
        shutil.copy(place, path)


def _compile(staged: Path) -> None:
    """Compile it here, once: the account that runs a service on a host may not write there, and would compile at
    each start. The code is never compared with its source again, so it counts whatever the copies' times are.

    A file that can't be compiled is a template or a test of a package; it is copied as it is.
    """
    compileall.compile_dir(staged, quiet=2, force=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
