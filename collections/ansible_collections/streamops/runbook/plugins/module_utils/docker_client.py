"""The Docker engine of this machine: how it is reached, and what of its API is used.

Bodies and answers are those of the engine's own HTTP API, as plain dicts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

import docker
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ServiceError
from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import RequestException

Body = dict[str, Any]

#: On everything that the project makes in an engine: the folder of the deployment that it belongs to.
LABEL_ROOT = "streamops.root"
LABEL_HOST = "streamops.host"
LABEL_SERVICE = "streamops.service"
#: What a container is for: ``service`` | ``address`` | ``task``.
LABEL_ROLE = "streamops.role"
LABEL_DIGEST = "streamops.digest"
#: Digest of all that a container was made from.
LABEL_SHAPE = "streamops.shape"
#: Of an image: the account that its services run as, ``name:uid:gid``.
LABEL_ACCOUNT = "streamops.account"
#: Of an image: the component that it is for.
LABEL_IMAGE = "streamops.image"

_NEXT = ".config/setup/docker-engine.sh, which starts it"
_SECONDS = 60


class Engine(Protocol):
    """The calls of ``docker.APIClient`` that are used."""

    # Containers

    def containers(self, *, all: bool, filters: Mapping[str, Any]) -> list[Body]: ...  # noqa: A002 - the client's name
    def inspect_container(self, container: str) -> Body: ...
    def create_container_from_config(self, config: Body, name: str | None = None) -> Body: ...
    def remove_container(self, container: str, *, force: bool) -> None: ...
    def start(self, container: str) -> None: ...
    def stop(self, container: str, timeout: int | None = None) -> None: ...
    def kill(self, container: str, signal: str | None = None) -> None: ...
    def unpause(self, container: str) -> None: ...
    def update_container(self, container: str, *, restart_policy: Body) -> Body: ...
    def top(self, container: str, ps_args: str | None = None) -> Body: ...
    def logs(self, container: str, *, stdout: bool, stderr: bool, tail: int | str) -> bytes: ...
    def get_archive(self, container: str, path: str, chunk_size: int) -> tuple[Iterator[bytes], Body]: ...

    # Images, networks, volumes

    def inspect_image(self, image: str) -> Body: ...
    def build(self, **options: Any) -> Iterator[Body]: ...
    def networks(self, names: list[str] | None = None, *, filters: Mapping[str, Any] | None = None) -> list[Body]: ...
    def inspect_network(self, net_id: str) -> Body: ...
    def create_network(self, name: str, *, driver: str, ipam: Body, labels: Mapping[str, str]) -> Body: ...
    def remove_network(self, net_id: str) -> None: ...
    def connect_container_to_network(
        self, container: str, net_id: str, *, ipv4_address: str, aliases: list[str]
    ) -> None: ...
    def inspect_volume(self, name: str) -> Body: ...
    def volumes(self, *, filters: Mapping[str, Any]) -> Body: ...
    def remove_volume(self, name: str) -> None: ...


def connect(seconds: float = _SECONDS) -> Engine:
    """The engine that DOCKER_HOST names, else that of this machine.

    :param seconds: how long an answer, or the next part of one, may take.
    :raises ServiceError: none answers.
    """
    with talking("the Docker engine"):
        return cast(Engine, docker.from_env(version="auto", timeout=seconds).api)


@contextlib.contextmanager
def talking(thing: str) -> Iterator[None]:
    """Turn what the client raises into errors that name the thing.

    :param thing: what the calls are about.
    :raises ServiceError: the engine refused, failed, or does not answer.
    """
    try:
        yield
    except APIError as error:
        raise ServiceError(thing, f"the Docker engine saying: {said(error)}", "that it can be done") from error
    except (DockerException, RequestException) as error:
        raise ServiceError("the Docker engine", f"no answer ({error})", "an answer", _NEXT) from error


def said(error: APIError) -> str:
    """The engine's own words, in one line."""
    return " ".join(str(error.explanation or error).split())


def found(look: Any, *arguments: Any) -> Body | None:
    """What an inspecting call answers; None where there is no such thing."""
    try:
        return cast(Body, look(*arguments))
    except NotFound:
        return None


def labels_of(body: Mapping[str, Any]) -> dict[str, str]:
    """The labels of a container, image, network or volume as it was inspected."""
    config = body.get("Config") or body
    return dict(config.get("Labels") or {})
