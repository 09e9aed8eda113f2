"""Prometheus metrics of a recording, and how metrics are served.

Text format and naming: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fml_lightning.connectors.mqtt.status import Status
from fml_lightning.connectors.quality import DOUBTFUL
from fml_lightning.errors import UserError

COUNTERS = {
    "received": "Messages that came over the line",
    "received_bytes": "Bytes of their topics and payloads",
    "committed": "Messages made durable",
    "redelivered": "Messages that the broker delivered again though they were durable, and that were left out",
    "repeated": "Readings that a device sent again",
    "dead_letters": "Messages that could not be read",
    "connections": "Connections to the broker",
    "restarts": "Restarts of the network thread",
    "gaps": "Times that messages may have been lost: the broker had lost the session, or another client had it",
    "takeovers": "Times that another client has taken the session, or seems to have",
    "quarantined": "Segments of the spool that could not be read",
}
GAUGES = {
    "connected": "1 while there is a connection",
    "healthy": "1 while connected, alone in the session, writing, able to read what comes and not silent",
    "warning": "1 while something is probably set wrong, though no message is lost",
    "waiting": "Messages received and not yet durable",
    "lag": "Time since the oldest of the waiting messages was received",
    "silence": "Time since the last message",
    "machines": "Machines seen",
    "skipped": "Names of members of messages that are skipped",
    "skew": "Largest distance between a machine's clock and ours",
}
SECONDS = ("lag", "silence", "skew")
"""Gauges whose names end with this unit."""


class Collector(Protocol):
    """Tells Prometheus families of metrics."""

    def collect(self) -> Iterator[Any]:
        """The families as they are now."""
        ...


class _Collector:
    """Reads the status whenever Prometheus asks."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status()
        for name, meaning in COUNTERS.items():
            yield CounterMetricFamily(f"fml_mqtt_{name}", meaning, value=getattr(status, name))
        doubtful = CounterMetricFamily("fml_mqtt_doubtful", "Readings with a quality flag", labels=["reason"])
        for flag in DOUBTFUL:  # each from the start, so that its first reading counts as an increase
            doubtful.add_metric([flag.word], status.doubtful.get(flag.word, 0))
        yield doubtful
        gauges = {name: float(getattr(status, name)) for name in GAUGES if name not in ("warning", "skipped")}
        gauges |= {"warning": float(status.warning is not None), "skipped": float(len(status.skipped))}
        for name, meaning in GAUGES.items():
            unit = "seconds" if name in SECONDS else ""
            yield GaugeMetricFamily(f"fml_mqtt_{name}", meaning, gauges[name], unit=unit)


@contextmanager
def serve_metrics(status: Callable[[], Status], port: int | None, host: str = "127.0.0.1") -> Iterator[None]:
    """Serve a recording's metrics at http://HOST:PORT/metrics meanwhile; nothing where `port` is None.

    Raises:
        UserError: `prometheus-client` is not installed, or the port cannot be used.
    """
    with serve_collector(_Collector(status), port, host):
        yield


@contextmanager
def serve_collector(collector: Collector, port: int | None, host: str = "127.0.0.1") -> Iterator[None]:
    """Serve what a collector collects at http://HOST:PORT/metrics meanwhile; nothing where `port` is None.

    Raises:
        UserError: `prometheus-client` is not installed, or the port cannot be used.
    """
    if port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise UserError("metrics_port: needs prometheus-client; pip install 'fml-lightning[metrics]'") from error
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise UserError(f"metrics_port: cannot serve at {host}:{port} ({error}); choose another port") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
