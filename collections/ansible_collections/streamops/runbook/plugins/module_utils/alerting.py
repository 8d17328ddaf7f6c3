"""Alerts and escalation: config/prometheus/alerts.yml and config/escalation.yml become what the products read.

The rule file is for Prometheus 2.42, the configuration for Alertmanager 0.31. Which procedure answers an
alert stands in the catalog and nowhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.streamops.runbook.plugins.module_utils.catalog import SEVERITIES, Procedure
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError

COMPONENTS = ("kafka", "minio", "spark-streaming", "producer", "monitoring", "runbook")
# An alert that tells of whatever service its series belongs to.
BY_SERVICE = "service"
# An alert on the absence of a metric: of the component of whichever alert reads it.
BY_READER = "reader"
METRIC = "$metric"
WATCHDOG = "Watchdog"
# The four of the runbook; no configuration of ours may lack one.
CONTACTS = ("on_call_engineer", "team_lead", "infrastructure_team", "security_team")
NEXT_BUSINESS_DAY = "next-business-day"

_SERVICES = "|".join(name for name in COMPONENTS if name not in ("monitoring", "runbook"))
_BY_SERVICE_LABEL = (
    '{{ if match "^(' + _SERVICES + ')$" $labels.service }}{{ $labels.service }}{{ else }}monitoring{{ end }}'
)
_THRESHOLD = re.compile(r"\$\{([a-z0-9_]*)\}")
_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
_DURATION = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_RECORD_KEYS = frozenset({"name", "expr", "component"})
_ALERT_TEXTS = frozenset({"name", "expr", "for", "severity", "component", "summary", "description"})
_ALERT_OPTIONS = frozenset({"inhibited_by", "absence_is_normal"})
_LEVEL_KEYS = frozenset({"title", "response", "escalation", "update", "group_wait", "contact", "escalate_to"})
_CONTACT_KEYS = frozenset({"title", "webhook_url"})
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
# What stands between the names in an expression: matchers, ranges, lists of labels.
_BETWEEN = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_WORDS = re.compile(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()")
_OPERATORS = frozenset({"and", "or", "unless", "bool", "offset", "group_left", "group_right"})
_ABSENT = re.compile(r"\babsent\((.*?)\)")


@dataclass(frozen=True)
class Inhibition:
    """While one of ``alerts`` fires with the same values of the labels ``equal``, the alert is not sent."""

    alerts: tuple[str, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """An expression with a name of its own, by which alerts and dashboards read it; may hold ``${threshold}``."""

    name: str
    expr: str
    component: str


@dataclass(frozen=True)
class Alert:
    """One alert as it is defined; ``expr``, ``hold``, ``summary`` and ``description`` may hold ``${threshold}``.

    :param hold: how long the expression must hold, the ``for`` of Prometheus.
    :param component: one of :data:`COMPONENTS`, :data:`BY_SERVICE` or, of one that stands for many metrics,
        :data:`BY_READER`.
    :param absence_is_normal: its metrics may be missing for a good reason.
    :param metric: the one of many that it is about.
    """

    name: str
    expr: str
    hold: str
    severity: str
    component: str
    summary: str
    description: str
    inhibited_by: tuple[Inhibition, ...] = ()
    absence_is_normal: bool = False
    metric: str = ""


@dataclass(frozen=True)
class Definitions:
    """What config/prometheus/alerts.yml holds."""

    thresholds: Mapping[str, float]
    records: tuple[Record, ...]
    alerts: tuple[Alert, ...]


@dataclass(frozen=True)
class Level:
    """One severity of config/escalation.yml; times in seconds.

    :param response: None where the runbook says next business day.
    """

    name: str
    title: str
    response: int | None
    escalation: int
    update: int
    group_wait: int
    contact: str
    escalate_to: str


@dataclass(frozen=True)
class Contact:
    """Where one contact is told; ``webhook_url`` is empty while it is not filled in."""

    name: str
    title: str
    webhook_url: str

    @property
    def filled(self) -> bool:
        """Whether anything can be sent there."""
        return bool(self.webhook_url)


@dataclass(frozen=True)
class Escalation:
    """What config/escalation.yml holds, with the contacts of the inventory laid over it."""

    levels: Mapping[str, Level]
    contacts: Mapping[str, Contact]

    def contact_of(self, severity: str) -> Contact:
        """The contact that is told first of something of this severity."""
        return self.contacts[self.levels[severity].contact]


# Definitions of alerts.


def load(path: Path) -> Definitions:
    """Read and validate config/prometheus/alerts.yml.

    :raises Refused: naming the entry, what it holds and what is allowed.
    """
    return parse(_read(path))


def parse(document: Any) -> Definitions:
    """Validate what such a file holds; errors as :func:`load`."""
    top = _mapping("alerts.yml", document, frozenset({"thresholds", "records", "alerts"}), frozenset({"records"}))
    thresholds = {str(name): _number(f"threshold {name}", value) for name, value in top["thresholds"].items()}
    records = tuple(_record(entry) for entry in top.get("records", ()))
    alerts = tuple(_alert(entry) for entry in top["alerts"])
    definitions = Definitions(thresholds, records, alerts)
    _check_names("record", [record.name for record in records])
    _check_names("alert", [alert.name for alert in alerts])
    for alert in alerts:
        filled(alert, thresholds)
    for record in records:
        _numbers(f"record {record.name}", record.expr, thresholds)
    _check_inhibitions(definitions)
    return definitions


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunbookError(str(path), str(error), "a readable YAML file") from error


def _mapping(thing: str, value: Any, keys: frozenset[str], optional: frozenset[str] = frozenset()) -> Mapping[str, Any]:
    found = set(value) if isinstance(value, Mapping) else None
    if found is None or found - keys or keys - optional - found:
        raise Refused(thing, "no mapping" if found is None else ", ".join(sorted(map(str, found))), _list(keys))
    mapping: Mapping[str, Any] = value
    return mapping


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _number(thing: str, value: Any) -> float:
    if isinstance(value, bool):
        raise Refused(thing, repr(value), "a number that is not negative")
    try:
        # Extra variables of a command line are strings; a whole number stays one, since a duration takes no other.
        number = value if isinstance(value, int) else float(str(value))
    except ValueError:
        raise Refused(thing, repr(value), "a number that is not negative") from None
    if not 0 <= number < float("inf"):
        raise Refused(thing, repr(value), "a number that is not negative")
    return int(number) if number == int(number) else number


def _record(entry: Any) -> Record:
    thing = f"record {entry.get('name') if isinstance(entry, Mapping) else entry}"
    texts = _texts(thing, _mapping(thing, entry, _RECORD_KEYS), _RECORD_KEYS)
    if texts["component"] not in (*COMPONENTS, BY_SERVICE):
        raise Refused(f"{thing}, component", texts["component"], ", ".join((*COMPONENTS, BY_SERVICE)))
    return Record(texts["name"], texts["expr"], texts["component"])


def _texts(thing: str, fields: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    for key in keys:
        if not isinstance(fields[key], str) or not fields[key].strip():
            raise Refused(f"{thing}, {key}", repr(fields[key]), "a text that is not empty")
    return {key: fields[key].strip() for key in keys}


def _alert(entry: Any) -> Alert:
    thing = f"alert {entry.get('name') if isinstance(entry, Mapping) else entry}"
    fields = _mapping(thing, entry, _ALERT_TEXTS | _ALERT_OPTIONS, _ALERT_OPTIONS)
    texts = _texts(thing, fields, _ALERT_TEXTS)
    if not _NAME.fullmatch(texts["name"]):
        raise Refused(thing, texts["name"], "a name as BrokerDown")
    if texts["severity"] not in SEVERITIES:
        raise Refused(f"{thing}, severity", texts["severity"], ", ".join(SEVERITIES))
    normal = fields.get("absence_is_normal", False)
    if not isinstance(normal, bool):
        raise Refused(f"{thing}, absence_is_normal", repr(normal), "true or false")
    components = (*COMPONENTS, BY_READER if METRIC in texts["expr"] else BY_SERVICE)
    if texts["component"] not in components:
        raise Refused(f"{thing}, component", texts["component"], ", ".join(components))
    return Alert(
        name=texts["name"],
        expr=texts["expr"],
        hold=texts["for"],
        severity=texts["severity"],
        component=texts["component"],
        summary=texts["summary"],
        description=texts["description"],
        inhibited_by=tuple(
            Inhibition(tuple(rule["alerts"]), tuple(rule.get("equal", ())))
            for rule in (
                _mapping(f"{thing}, inhibited_by", raw, frozenset({"alerts", "equal"}), frozenset({"equal"}))
                for raw in fields.get("inhibited_by", ())
            )
        ),
        absence_is_normal=normal,
    )


def _check_names(kind: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise Refused(f"{kind} {name}", "a second one", f"one definition a {kind}")
        seen.add(name)


def _check_inhibitions(definitions: Definitions) -> None:
    alerts = {alert.name: alert for alert in definitions.alerts}
    sources = {
        name: {source for rule in alert.inhibited_by for source in rule.alerts} for name, alert in alerts.items()
    }
    for name, above in sources.items():
        for source in above:
            if source not in alerts:
                raise Refused(f"alert {name}, inhibited_by", source, "an alert that is defined")
            if alerts[source].severity > alerts[name].severity:
                # Otherwise the loud one would be hidden by the quiet one.
                raise Refused(
                    f"alert {name}, inhibited_by",
                    f"{source} of severity {alerts[source].severity}",
                    f"an alert at least as urgent as {alerts[name].severity}",
                )
        reached, queue = set[str](), list(above)
        while queue:
            source = queue.pop()
            if source not in reached:
                reached.add(source)
                queue += sources.get(source, ())
        if name in reached:
            # Two alerts that hide each other are both never sent.
            raise Refused(f"alert {name}, inhibited_by", "a circle back to itself", "no circle")


def _numbers(thing: str, text: str, thresholds: Mapping[str, float]) -> str:
    def number(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in thresholds:
            raise Refused(thing, f"${{{name}}}", f"one of {_list(thresholds)}")
        return repr(thresholds[name])

    return _THRESHOLD.sub(number, text)


def filled(alert: Alert, thresholds: Mapping[str, float]) -> Alert:
    """Return the alert with the thresholds in their places.

    :raises Refused: for a threshold that is not defined, or a ``for`` that comes out as no duration.
    """
    thing = f"alert {alert.name}"
    made = replace(
        alert,
        expr=_numbers(thing, alert.expr, thresholds),
        hold=_numbers(thing, alert.hold, thresholds),
        summary=_numbers(thing, alert.summary, thresholds),
        description=_numbers(thing, alert.description, thresholds),
    )
    if not _DURATION.fullmatch(made.hold):
        raise Refused(f"{thing}, for", made.hold, "a whole number with s, m, h, d or w")
    return made


# What alerts read.


def expanded(expr: str, records: Mapping[str, str]) -> str:
    """Return an expression with the expressions of records in the place of their names.

    :param records: expression by name; one may read another that stands before it.
    """
    for name, inner in reversed(list(records.items())):
        expr = re.sub(rf"\b{name}\b", f"({inner})".replace("\\", r"\\"), expr)
    return expr


def metrics_of(expr: str) -> list[str]:
    """Return the metrics that an expression of PromQL reads, in their order, each once."""
    words = _WORDS.findall(_BETWEEN.sub(" ", _STRINGS.sub(" ", expr)))
    return list(dict.fromkeys(word for word in words if word not in _OPERATORS))


def read_by(alert: Alert, definitions: Definitions) -> list[str]:
    """Return the metrics that an alert reads, by itself or through what is recorded, each once."""
    return metrics_of(expanded(alert.expr, {record.name: record.expr for record in definitions.records}))


def each_metric(definitions: Definitions) -> tuple[Alert, ...]:
    """Return the alerts, with one that stands for many metrics replaced by one for each of them.

    Those are the metrics that an alert reads to which their absence is not normal, and whose absence no other asks for.
    """
    records = {record.name: record.expr for record in definitions.records}
    reads = [(alert, expanded(alert.expr, records)) for alert in definitions.alerts if METRIC not in alert.expr]
    partnered = {name for _, expr in reads for inner in _ABSENT.findall(expr) for name in metrics_of(inner)}
    readers: dict[str, Alert] = {}
    for alert, expr in reads:
        for name in () if alert.absence_is_normal else metrics_of(expr):
            if name not in partnered:
                readers.setdefault(name, alert)
    made: list[Alert] = []
    for alert in definitions.alerts:
        made += [_about(alert, name, reader) for name, reader in readers.items()] if METRIC in alert.expr else [alert]
    return tuple(made)


def _about(alert: Alert, metric: str, reader: Alert) -> Alert:
    return replace(
        alert,
        expr=alert.expr.replace(METRIC, metric),
        summary=alert.summary.replace(METRIC, metric),
        description=alert.description.replace(METRIC, metric),
        component=reader.component if alert.component == BY_READER else alert.component,
        metric=metric,
    )


def overridden(definitions: Definitions, thresholds: Mapping[str, Any]) -> Definitions:
    """Return the definitions with the inventory's thresholds laid over theirs.

    :raises Refused: for a name that no alert reads, or a value that is no number.
    """
    for name in thresholds:
        if name not in definitions.thresholds:
            near = difflib.get_close_matches(str(name), sorted(definitions.thresholds), n=1)
            raise Refused(
                f"threshold {name}",
                "no threshold of that name",
                f"one of {_list(definitions.thresholds)}",
                f"did you mean {near[0]}?" if near else "see config/prometheus/alerts.yml",
            )
    own = {str(name): _number(f"threshold {name}", value) for name, value in thresholds.items()}
    return replace(definitions, thresholds={**definitions.thresholds, **own})


def answers(definitions: Definitions, procedures: Mapping[str, Procedure]) -> dict[str, str]:
    """Return the one procedure that answers each alert.

    :raises Refused: for an alert that none or two answer, and for one in the catalog that is not defined.
    """
    names = {alert.name for alert in definitions.alerts}
    answered: dict[str, str] = {}
    for procedure in procedures.values():
        for name in procedure.alerts:
            if name not in names:
                raise Refused(
                    f"catalog entry {procedure.name}, alerts", name, "an alert of config/prometheus/alerts.yml"
                )
            if name in answered:
                raise Refused(f"alert {name}", f"answered by {answered[name]} and {procedure.name}", "one procedure")
            answered[name] = procedure.name
    missing = names - set(answered)
    if missing:
        raise Refused(f"alerts {_list(missing)}", "no procedure", "each in the alerts of one entry of config/runbook")
    return answered


def rule_file(
    definitions: Definitions,
    procedures: Mapping[str, Procedure],
    thresholds: Mapping[str, Any],
    runbook_base_url: str,
) -> dict[str, Any]:
    """Return a rule file of Prometheus: a group a component, its records first, in the order of the definitions.

    :param procedures: the catalog.
    :param thresholds: what the inventory says instead of the file's own numbers, by name.
    :param runbook_base_url: what stands before ``docs/runbooks/<procedure>.md``.
    :returns: ``{groups: [{name, rules: [{record, expr} or {alert, expr, for, labels, annotations}]}]}``; a last group
        records each threshold as ``runbook_threshold{name}`` for the dashboards.
    :raises Refused: see :func:`overridden` and :func:`answers`.
    """
    procedure_of = answers(definitions, procedures)
    numbers = overridden(definitions, thresholds).thresholds
    base = runbook_base_url.rstrip("/")
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in definitions.records:
        expr = _numbers(f"record {record.name}", record.expr, numbers)
        groups.setdefault(record.component, []).append({"record": record.name, "expr": expr})
    for alert in (filled(alert, numbers) for alert in each_metric(definitions)):
        procedure = procedure_of[alert.name]
        groups.setdefault(alert.component, []).append(
            {
                "alert": alert.name,
                "expr": alert.expr,
                "for": alert.hold,
                "labels": {
                    "severity": alert.severity,
                    "component": _BY_SERVICE_LABEL if alert.component == BY_SERVICE else alert.component,
                    "procedure": procedure,
                    **({"metric": alert.metric} if alert.metric else {}),
                },
                "annotations": {
                    "summary": alert.summary,
                    "description": alert.description,
                    "runbook_url": f"{base}/docs/runbooks/{procedure}.md",
                },
            }
        )
    recorded = [
        {"record": "runbook_threshold", "expr": f"vector({number!r})", "labels": {"name": name}}
        for name, number in numbers.items()
    ]
    return {
        "groups": [
            *({"name": f"runbook-{name}", "rules": rules} for name, rules in groups.items()),
            {"name": "runbook-thresholds", "rules": recorded},
        ]
    }


# Escalation.


def seconds(thing: str, text: Any) -> int:
    """Read a duration as ``15m``: a whole number with s, m, h, d or w."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise Refused(thing, repr(text), "a whole number with s, m, h, d or w")
    return int(match.group(1)) * _SECONDS[match.group(2)]


def load_escalation(path: Path, contacts: Mapping[str, Any] | None = None) -> Escalation:
    """Read and validate config/escalation.yml; see :func:`parse_escalation`."""
    return parse_escalation(_read(path), contacts or {})


def parse_escalation(document: Any, contacts: Mapping[str, Any]) -> Escalation:
    """Validate what such a file holds, with the inventory's contacts laid over it.

    :param contacts: webhook address by name, for those that the inventory fills in.
    :raises Refused: naming the entry, what it holds and what is allowed; never the address of a webhook,
        which may be a secret.
    """
    top = _mapping("escalation.yml", document, frozenset({"severities", "contacts"}))
    known = _mapping("escalation.yml, contacts", top["contacts"], frozenset({*CONTACTS, WATCHDOG.lower()}))
    for name in contacts:
        if name not in known:
            raise Refused(f"contact {name}", "no contact of that name", f"one of {_list(known)}")
    people = {name: _contact(name, entry, contacts.get(name)) for name, entry in known.items()}
    levels = {
        name: _level(name, entry, people)
        for name, entry in _mapping("escalation.yml, severities", top["severities"], frozenset(SEVERITIES)).items()
    }
    return Escalation({name: levels[name] for name in SEVERITIES}, people)


def _level(name: str, entry: Any, contacts: Mapping[str, Contact]) -> Level:
    fields = _mapping(f"severity {name}", entry, _LEVEL_KEYS)
    for key in ("contact", "escalate_to"):
        if fields[key] not in contacts:
            raise Refused(f"severity {name}, {key}", str(fields[key]), f"one of {_list(contacts)}")
    times = {key: seconds(f"severity {name}, {key}", fields[key]) for key in ("escalation", "update", "group_wait")}
    response = fields["response"]
    return Level(
        name=name,
        title=fields["title"],
        response=None if response == NEXT_BUSINESS_DAY else seconds(f"severity {name}, response", response),
        contact=fields["contact"],
        escalate_to=fields["escalate_to"],
        **times,
    )


def _contact(name: str, entry: Any, override: Any) -> Contact:
    fields = _mapping(f"contact {name}", entry, _CONTACT_KEYS)
    url = _unless_placeholder(override or fields["webhook_url"])
    if url and not re.fullmatch(r"https?://[^\s/]+\S*", url):
        raise Refused(f"contact {name}, webhook_url", "no address of a webhook", "http:// or https:// and a host")
    return Contact(name, str(fields["title"]), url)


def _unless_placeholder(value: Any) -> str:
    text = str(value or "").strip()
    return "" if text.startswith("[") and text.endswith("]") else text


def unfilled_contacts(escalation: Escalation) -> list[dict[str, str]]:
    """Return every contact that nothing can be sent to: ``name``, ``title``, ``fill_in`` (what to do about it)."""
    return [
        {
            "name": contact.name,
            "title": contact.title,
            "fill_in": f"the webhook address of {contact.name} in alertmanager_contacts of the inventory",
        }
        for contact in escalation.contacts.values()
        if not contact.filled
    ]


def alertmanager_config(
    escalation: Escalation,
    token_file: str,
    definitions: Definitions,
    files: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the configuration of Alertmanager: routes, receivers and inhibitions.

    :param token_file: file that holds the bearer token of the webhooks and nothing else, on Alertmanager's host.
    :param definitions: the inhibitions stand there.
    :param files: where the stack speaks TLS, ``ca_file``, ``cert_file`` and ``key_file`` on Alertmanager's host.
    :param inside: what the addresses of webhooks begin with that belong to the stack; to others, which have
        certificates of somebody else, the files mean nothing.
    :raises Refused: when a contact is filled in and there is no token file.

    Each severity has a receiver that tells its contact and repeats after its update time. A contact that is not
    filled in yields a receiver that sends nothing.

    Escalation is a second route with the escalation time as its group_wait, where every alert is a group of its
    own: what is resolved or silenced by then is never sent, and a restart of Alertmanager does not begin the wait
    anew, because it counts from the start of the alert. What Alertmanager can not do: know that somebody works on
    it (a silence is the only word for that), or skip nights and weekends by itself.

    Alertmanager must keep its notes for longer than the longest update time (``--data.retention``), or it repeats
    too early.
    """
    if not token_file and any(contact.filled for contact in escalation.contacts.values()):
        raise Refused("token_file of the webhooks", "nothing", "the file that holds their bearer token")
    routes = [_watchdog_route()]
    for level in escalation.levels.values():
        matcher = f'severity="{level.name}"'
        if level.escalate_to != level.contact:
            routes.append(
                {
                    "receiver": f"{level.name}-escalation",
                    "matchers": [matcher],
                    "continue": True,
                    "group_by": ["..."],
                    "group_wait": f"{level.escalation}s",
                    "group_interval": "5m",
                    "repeat_interval": f"{level.update}s",
                }
            )
        routes.append(
            {
                "receiver": level.name,
                "matchers": [matcher],
                "group_by": ["severity", "component"],
                "group_wait": f"{level.group_wait}s",
                "group_interval": "1m",
                "repeat_interval": f"{level.update}s",
            }
        )
    return {
        # What nobody classed goes to the most urgent receiver: rather once too often than to nobody.
        "route": {"receiver": SEVERITIES[0], "routes": routes},
        "inhibit_rules": _inhibit_rules(definitions),
        "receivers": _receivers(escalation, token_file, partial(_tls_config, files, inside)),
    }


def _watchdog_route() -> dict[str, Any]:
    return {
        "receiver": WATCHDOG.lower(),
        "matchers": [f'alertname="{WATCHDOG}"'],
        "group_by": ["alertname"],
        "group_wait": "0s",
        # Repeats happen on the beat of the group; a beat that is no divisor of the repeat is not missed by a hair.
        "group_interval": "20s",
        "repeat_interval": "50s",
    }


def _tls_config(files: Mapping[str, str] | None, inside: Sequence[str], url: str) -> dict[str, Any]:
    if files is None or not any(url == own or url.startswith(own.rstrip("/") + "/") for own in inside):
        return {}
    return {"tls_config": {name: files[name] for name in ("ca_file", "cert_file", "key_file")}}


def _receivers(
    escalation: Escalation, token_file: str, tls_config: Callable[[str], dict[str, Any]]
) -> list[dict[str, Any]]:
    contacts = escalation.contacts
    receivers = [_receiver(WATCHDOG.lower(), contacts[WATCHDOG.lower()], token_file, tls_config)]
    for level in escalation.levels.values():
        receivers.append(_receiver(level.name, contacts[level.contact], token_file, tls_config))
        if level.escalate_to != level.contact:
            receivers.append(_receiver(f"{level.name}-escalation", contacts[level.escalate_to], token_file, tls_config))
    return receivers


def _receiver(
    name: str, contact: Contact, token_file: str, tls_config: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    if not contact.filled:
        return {"name": name}
    return {
        "name": name,
        "webhook_configs": [
            {
                "url": contact.webhook_url,
                "send_resolved": True,
                "http_config": {
                    "authorization": {"type": "Bearer", "credentials_file": token_file},
                    # A receiver that redirects would have the token sent to a stranger.
                    "follow_redirects": False,
                    **tls_config(contact.webhook_url),
                },
            }
        ],
    }


def _inhibit_rules(definitions: Definitions) -> list[dict[str, Any]]:
    rules: Sequence[tuple[Alert, Inhibition]] = [
        (alert, rule) for alert in definitions.alerts for rule in alert.inhibited_by
    ]
    return [
        {
            "source_matchers": [f'alertname=~"{"|".join(rule.alerts)}"'],
            "target_matchers": [f'alertname="{alert.name}"'],
            **({"equal": list(rule.equal)} if rule.equal else {}),
        }
        for alert, rule in rules
    ]
