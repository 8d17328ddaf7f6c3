"""Filters that tell hosts that were looked at from those that could not be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def _answer(hostvars: Mapping[str, Any], host: str, name: str) -> Mapping[str, Any]:
    answer = hostvars[host].get(name, {})
    return answer if isinstance(answer, Mapping) else {}


def _services(hostvars: Mapping[str, Any], host: str) -> list[str]:
    return [str(name) for name in hostvars[host].get("host_services", ())]


def inspected(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> list[Any]:
    """The ServiceInfo of every service of the hosts whose last inspection came to an answer."""
    return [info for host in hosts for info in _answer(hostvars, host, "procedure_inspected").get("services") or ()]


def silent(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> dict[str, list[str]]:
    """The services by host of those whose last inspection came to no answer."""
    return {
        host: _services(hostvars, host)
        for host in hosts
        if "services" not in _answer(hostvars, host, "procedure_inspected")
    }


def silence_reasons(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> dict[str, str]:
    """What Ansible said of each host whose last inspection came to no answer."""
    return {
        host: str(_answer(hostvars, host, "procedure_inspected").get("msg", "")) for host in silent(hosts, hostvars)
    }


def died(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> dict[str, list[str]]:
    """The services by host of those that could no longer be reached when last acted on."""
    return {
        host: _services(hostvars, host)
        for host in hosts
        if _answer(hostvars, host, "service_result").get("unreachable")
    }


def services_of(unreachable: Mapping[str, Iterable[str]], names: Iterable[str]) -> dict[str, list[str]]:
    """What is left of services by host when only those of ``names`` count; hosts without any are left out."""
    wanted = set(names)
    found = {host: [name for name in services if name in wanted] for host, services in unreachable.items()}
    return {host: services for host, services in found.items() if services}


class FilterModule:
    """The filters ``died``, ``inspected``, ``services_of``, ``silence_reasons`` and ``silent`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions, as Ansible wants them."""
        return {
            "died": died,
            "inspected": inspected,
            "services_of": services_of,
            "silence_reasons": silence_reasons,
            "silent": silent,
        }
