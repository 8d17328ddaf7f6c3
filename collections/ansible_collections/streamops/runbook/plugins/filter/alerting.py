"""Filters that make the files of Prometheus and Alertmanager from the project's own definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import alerting, catalog

PROJECT = Path(__file__).resolve().parents[6]
DEFINITIONS = PROJECT / "config" / "prometheus" / "alerts.yml"


def _definitions(source: str | Mapping[str, Any]) -> alerting.Definitions:
    return alerting.parse(source) if isinstance(source, Mapping) else alerting.load(Path(source))


def _escalation(source: str | Mapping[str, Any], contacts: Mapping[str, Any] | None) -> alerting.Escalation:
    if isinstance(source, Mapping):
        return alerting.parse_escalation(source, contacts or {})
    return alerting.load_escalation(Path(source), contacts)


def alert_rules(
    definitions: str | Mapping[str, Any],
    procedures_folder: str,
    thresholds: Mapping[str, Any] | None = None,
    base_url: str = "",
) -> dict[str, Any]:
    """The rule file of Prometheus.

    :param definitions: path of config/prometheus/alerts.yml, or what it holds.
    :param procedures_folder: config/runbook.
    :param thresholds: what the inventory says instead of the file's numbers.
    """
    return alerting.rule_file(
        _definitions(definitions), catalog.load(Path(procedures_folder)), thresholds or {}, base_url
    )


def alertmanager_config(
    escalation: str | Mapping[str, Any],
    contacts: Mapping[str, Any] | None,
    token_file: str,
    definitions: str | Mapping[str, Any] = str(DEFINITIONS),
    tls: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> dict[str, Any]:
    """The configuration of Alertmanager.

    :param escalation: path of config/escalation.yml, or what it holds.
    :param contacts: webhook address by name of a contact, as the inventory fills them in.
    :param token_file: file with the bearer token of the webhooks, on Alertmanager's host.
    :param definitions: as of :func:`alert_rules`; the inhibitions stand there.
    :param tls: where the stack speaks TLS, ``ca_file``, ``cert_file`` and ``key_file`` on Alertmanager's host.
    :param inside: what the addresses of webhooks begin with that belong to the stack.
    """
    return alerting.alertmanager_config(
        _escalation(escalation, contacts), token_file, _definitions(definitions), tls or None, inside
    )


def unfilled_contacts(escalation: str | Mapping[str, Any], contacts: Mapping[str, Any] | None = None) -> list[str]:
    """A line for each contact that nothing can be sent to, with what to fill in; parameters as above."""
    unfilled = alerting.unfilled_contacts(_escalation(escalation, contacts))
    return [f"{contact['title']} ({contact['fill_in']})" for contact in unfilled]


class FilterModule:
    """The filters ``alert_rules``, ``alertmanager_config`` and ``unfilled_contacts`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions, as Ansible wants them."""
        return {
            "alert_rules": alert_rules,
            "alertmanager_config": alertmanager_config,
            "unfilled_contacts": unfilled_contacts,
        }
