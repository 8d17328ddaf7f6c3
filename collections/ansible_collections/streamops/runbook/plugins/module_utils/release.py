"""Releases of the pipeline: copies that running services use, so that the checkout may change."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.identity import (
    package_files,
    tree_digest,
)


def ensure(source: str, root: str, *, check: bool = False) -> tuple[str, bool]:
    """Copy a package to ``<root>/<package>-<digest>/<package>`` unless that is there already.

    The digest is read from the copy that was made, so a checkout that changes meanwhile can't
    give a release a wrong name; the copy appears whole, by one rename.

    :returns: the release's folder, for PYTHONPATH, and whether it was (or under ``check`` would
        be) made.
    :raises Refused: when there is no such package, or an existing release was changed since.
    :raises ServiceError: when the root can't be written.
    """
    package = Path(source).resolve()
    digest = tree_digest(str(package))
    if check:
        target = Path(root) / f"{package.name}-{digest}"
        return str(target), not target.exists()
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".release-") as folder:
            if not _verified(Path(root) / f"{package.name}-{digest}", package.name, digest):
                staged = Path(folder) / "release"
                for name in package_files(str(package)):
                    path = staged / package.name / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(package / name, path)
                digest = tree_digest(str(staged / package.name))
                target = Path(root) / f"{package.name}-{digest}"
                if not _verified(target, package.name, digest):
                    staged.rename(target)
                    return str(target), True
    except OSError as error:
        raise ServiceError(
            f"releases in {root}", error.strerror or str(error), "a folder that can be written"
        ) from error
    return str(Path(root) / f"{package.name}-{digest}"), False


def _verified(release: Path, package: str, digest: str) -> bool:
    """Whether the release is there; one whose files were changed is refused."""
    if not release.exists():
        return False
    found = tree_digest(str(release / package))
    if found != digest:
        raise Refused(
            f"release {release}",
            f"files with the digest {found}",
            f"the digest {digest}",
            "stop what uses it and remove that folder",
        )
    return True
