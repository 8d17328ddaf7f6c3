"""The exporter service: lag read when asked, canaries sent and certificates looked at now and then.

Needs nothing to start: what is not there shows in its metrics.
"""

from __future__ import annotations

import logging
import threading
from functools import partial

from prometheus_client import CollectorRegistry

from pipeline import certificates
from pipeline.canary import Canary, CanaryMetrics
from pipeline.certificates import CertificateCollector
from pipeline.clients import connect_admin
from pipeline.config import ExporterConfig
from pipeline.errors import EXIT_OK, PipelineError
from pipeline.lag import LagCollector, OffsetReader
from pipeline.metrics import serve
from pipeline.prove import Sequences
from pipeline.sender import make_producer

log = logging.getLogger(__name__)


def run(config: ExporterConfig, stop: threading.Event) -> int:
    """Run the service until it is stopped.

    A canary that is under way at the stop is given up: its thread ends with the process.

    :param stop: set by SIGTERM.
    :returns: the exit code.
    :raises Unavailable: the metrics address cannot be used.
    :raises ConfigError: the files of ``tls`` cannot be used.
    :raises PipelineError: one of its threads ended, which only a new process heals.
    """
    endpoint, login = config.endpoints.kafka, config.credentials.kafka
    registry = CollectorRegistry()
    reader = OffsetReader(
        partial(connect_admin, endpoint, login, "pipeline-exporter", config.scrape_timeout_seconds),
        endpoint.topic,
        endpoint.group,
        config.scrape_timeout_seconds,
    )
    registry.register(LagCollector(reader.read, endpoint.topic, endpoint.group))
    canary = Canary(
        endpoint.topic,
        partial(make_producer, endpoint, login, "canary"),
        partial(_open_table, config),
        CanaryMetrics(registry),
        config.canary_interval_seconds,
        config.canary_deadline_seconds,
        stop,
    )
    work = {"canary": canary.run}
    tls = config.endpoints.tls
    if tls is not None:
        shown = CertificateCollector(certificates.places(config.secured), partial(certificates.read, tls))
        registry.register(shown)
        work["certificates"] = partial(shown.run, stop)
    serve(config.metrics, registry, tls)
    log.info("a canary every %g s", config.canary_interval_seconds)
    threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in work.items()]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0):
        for thread in threads:
            if not thread.is_alive():
                raise PipelineError(thread.name, "its thread ended", "a thread until the stop", "see the log above")
    return EXIT_OK


def _open_table(config: ExporterConfig) -> Sequences:
    # Imported by the thread of the canaries: the first scrape need not wait for it.
    from pipeline.tables import FollowedTable

    return FollowedTable(config.endpoints.tables.events, config.endpoints.s3, config.credentials.s3).sequences
