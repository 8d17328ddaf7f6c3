"""The command line: four services, and the tools that load, verify and prove.

Exit codes: 0 done and true; 1 done and not true, or failed; 2 wrong usage; 69 Kafka or the object
store not there in time; 78 refused (configuration or state that no restart heals).
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config as settings
from pipeline.errors import EXIT_FAILED, EXIT_OK, ConfigError, PipelineError
from pipeline.sender import EventSender, make_producer

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.tables import FollowedTable

# What a proof may take beyond its deadline to say so.
_SETTLE_SECONDS = 20
_DESCRIPTION = "The streaming pipeline: producer, streaming job, exporter and inbox, and the tools that prove them."
_EXIT_CODES = """\
exit codes:
  0   done, and what was asked for is true
  1   done, and it is not true; or failed
  2   wrong usage
  69  Kafka or the object store was not there in time
  78  refused: configuration or state that no restart heals
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :param arguments: without the program's name; None takes those of the process.
    :returns: the exit code.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # The Kafka client reports each lost connection several times over; what matters of an outage
    # is said by our own loggers.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("py4j").setLevel(logging.ERROR)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        return int(options.run(options, stop))
    except PipelineError as error:
        if getattr(options, "json", False):
            _print_json(
                {
                    "error": str(error),
                    "thing": error.thing,
                    "found": error.found,
                    "expected": error.expected,
                    "next_step": error.next_step,
                }
            )
        print(f"pipeline {options.command}: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipeline",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    finishes = "Runs until SIGTERM, then finishes its work."
    for name, run, text, more in (
        ("producer", _producer, "run the producer service: simulated devices send to Kafka", finishes),
        ("streaming", _streaming, "run the streaming job: Kafka to the Delta tables", finishes),
        (
            "exporter",
            _exporter,
            "run the exporter: lag and the canary's age for Prometheus",
            "Reads offsets from Kafka whenever it is scraped, and sends a canary event at an interval "
            "that it looks for in the events table. Where the stack speaks TLS it also shows when the "
            "certificates end. Starts and goes on without Kafka and without the "
            "object store; its metrics then say so. Runs until SIGTERM.",
        ),
        (
            "inbox",
            _inbox,
            "run the inbox: keeps the messages for whoever is on call",
            "Stands in for the phone of whoever is on call: takes JSON by POST on any path (webhooks of "
            "Alertmanager, notices of the runbook) and appends each as one line to a file before it "
            "answers 200. Serves GET /metrics and GET /-/ready. Runs until SIGTERM.",
        ),
    ):
        service = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}")
        service.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON configuration")
        service.set_defaults(run=run)

    load = _tool(
        commands,
        "load",
        _load,
        "send events at a steady rate and write a ledger",
        "Send events at a steady rate from outside the stack. Each send and each ack is written to "
        "the ledger, so that `pipeline verify` can tell what was lost whoever was killed. Waits "
        "for Kafka at the start, goes on through outages. Ends with 1 if events were never "
        "acknowledged.",
    )
    load.add_argument("--rate", type=_positive, default=1000.0, metavar="N", help="events per second (1000)")
    load.add_argument("--seconds", type=_positive, metavar="N", help="how long (until --count or SIGTERM)")
    load.add_argument("--count", type=_count, metavar="N", help="how many events at most")
    load.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="the ledger; appended to")
    load.add_argument("--devices", type=_count, default=100, metavar="N", help="simulated devices (100)")
    load.add_argument(
        "--flush-seconds",
        type=_positive,
        default=300.0,
        metavar="N",
        help="how long to wait for acks at the end (300)",
    )

    verify = _tool(
        commands,
        "verify",
        _verify,
        "hold a ledger against the events table",
        "Compare a ledger with the events table: acked must be in the table, the table must be in "
        "sent, and no (topic, partition, offset) may stand twice. Ends with 0 only if all holds "
        "for at least one acknowledged event.",
    )
    verify.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="the ledger")
    verify.add_argument(
        "--wait",
        type=_not_negative,
        default=0.0,
        metavar="SECONDS",
        help="how long events may still be on their way (0)",
    )

    prove = _tool(
        commands,
        "prove",
        _prove,
        "send canary events and read them back from the table",
        "Send canary events and wait until each is in the events table exactly once. Ends with 0 "
        "if so, with 1 if not by the deadline.",
    )
    prove.add_argument("--events", type=_count, default=3, metavar="N", help="how many (3)")
    prove.add_argument(
        "--deadline",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="how long all of it may take (60)",
    )

    _tool(
        commands,
        "table",
        _table,
        "show rows, version and newest event of the tables",
        "Show rows, version, files and newest event time of both tables.",
    )
    return parser


def _tool(commands: Any, name: str, run: Any, text: str, description: str) -> argparse.ArgumentParser:
    tool: argparse.ArgumentParser = commands.add_parser(name, help=text, description=description)
    tool.add_argument(
        "--endpoints",
        type=Path,
        default=Path(os.environ.get("PIPELINE_ENDPOINTS", ".sandbox/endpoints.json")),
        metavar="FILE",
        help="where everything is ($PIPELINE_ENDPOINTS, .sandbox/endpoints.json)",
    )
    tool.add_argument(
        "--credentials",
        type=Path,
        default=Path(os.environ.get("PIPELINE_CREDENTIALS", ".sandbox/credentials.json")),
        metavar="FILE",
        help="principals and users ($PIPELINE_CREDENTIALS, .sandbox/credentials.json)",
    )
    tool.add_argument("--json", action="store_true", help="print one JSON object")
    tool.set_defaults(run=run)
    return tool


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number from 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number from 1")
    return value


def _producer(options: argparse.Namespace, stop: threading.Event) -> int:
    from pipeline import producer

    config = settings.load(settings.ProducerConfig, options.config)
    connect = partial(make_producer, config.endpoints.kafka, config.credentials.kafka, "iot-producer")
    return producer.run(config, connect, stop)


def _streaming(options: argparse.Namespace, stop: threading.Event) -> int:
    from pipeline.streaming import job

    return job.run(settings.load(settings.StreamingConfig, options.config), stop)


def _exporter(options: argparse.Namespace, stop: threading.Event) -> int:
    from pipeline import exporter

    return exporter.run(settings.load(settings.ExporterConfig, options.config), stop)


def _inbox(options: argparse.Namespace, stop: threading.Event) -> int:
    from pipeline import inbox

    return inbox.run(settings.load(settings.InboxConfig, options.config), stop)


def _load(options: argparse.Namespace, stop: threading.Event) -> int:
    from pipeline.ledger import LedgerWriter
    from pipeline.load import Load

    endpoints, credentials = _shared(options)
    login = _principal(credentials, options, "load")
    ledger = LedgerWriter(options.ledger)
    connect = partial(make_producer, endpoints.kafka, login, "load")
    result = Load(ledger, endpoints.kafka.topic, connect, stop).run(
        rate=options.rate,
        seconds=options.seconds,
        count=options.count,
        devices=options.devices,
        flush_seconds=options.flush_seconds,
        ledger_path=options.ledger,
    )
    ledger.close()
    _report(options, result.as_json())
    return EXIT_OK if result.sent and not result.never_acked else EXIT_FAILED


def _verify(options: argparse.Namespace, _stop: threading.Event) -> int:
    from pipeline.ledger import read_ledger
    from pipeline.verify import COLUMNS, verify

    table = _events(options)

    def rows() -> pa.Table:
        return table.current().to_pyarrow_dataset().to_table(columns=COLUMNS)

    verdict = verify(lambda: read_ledger(options.ledger), rows, table.version, options.wait)
    _report(options, verdict.as_json())
    return EXIT_OK if verdict.holds else EXIT_FAILED


def _prove(options: argparse.Namespace, stop: threading.Event) -> int:
    from pipeline.prove import prove

    # A client library that waits for a suspended machine without end: its stack is told, and the caller gets an answer.
    faulthandler.dump_traceback_later(options.deadline + _SETTLE_SECONDS, exit=True, file=2)
    try:
        table = _events(options)
        endpoints, credentials = _shared(options)
        login = _principal(credentials, options, "operator")
        sender = EventSender(
            endpoints.kafka.topic,
            partial(make_producer, endpoints.kafka, login, "canary"),
            stop,
            buffer_events=options.events,
        )
        proof = prove(sender, table.sequences, options.events, options.deadline)
        # Before anything is closed: what has been seen is the answer, whatever a broker that says nothing does to that.
        _report(options, proof.as_json())
        sys.stdout.flush()
        sender.close()
    finally:
        faulthandler.cancel_dump_traceback_later()
    return EXIT_OK if proof.holds else EXIT_FAILED


def _table(options: argparse.Namespace, _stop: threading.Event) -> int:
    from pipeline.tables import facts, open_table

    endpoints, credentials = _shared(options)
    login = _user(credentials, options, "operator")
    result = {
        name: facts(uri, open_table(uri, endpoints.s3, login)).as_json()
        for name, uri in (
            ("events", endpoints.tables.events),
            ("dead_letters", endpoints.tables.dead_letters),
        )
    }
    _report(options, result)
    return EXIT_OK


def _events(options: argparse.Namespace) -> FollowedTable:
    from pipeline.tables import FollowedTable

    endpoints, credentials = _shared(options)
    return FollowedTable(endpoints.tables.events, endpoints.s3, _user(credentials, options, "operator"))


def _shared(options: argparse.Namespace) -> tuple[settings.Endpoints, settings.Credentials]:
    return (
        settings.load(settings.Endpoints, options.endpoints),
        settings.load(settings.Credentials, options.credentials),
    )


def _principal(credentials: settings.Credentials, options: argparse.Namespace, name: str) -> settings.KafkaLogin:
    if name not in credentials.kafka:
        raise ConfigError(str(options.credentials), f"no kafka.{name}", "that principal")
    return credentials.kafka[name]


def _user(credentials: settings.Credentials, options: argparse.Namespace, name: str) -> settings.S3Login:
    if name not in credentials.s3:
        raise ConfigError(str(options.credentials), f"no s3.{name}", "that user")
    return credentials.s3[name]


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        _print_json(result)
        return
    _print_lines(result, "")


def _print_lines(result: dict[str, Any], indent: str) -> None:
    width = max((len(name) for name in result), default=0)
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:")
            _print_lines(value, indent + "  ")
        else:
            print(f"{indent}{name:<{width}}  {value}")


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, default=str))
