"""Logs and metrics: the module that knows structlog and, with ``metrics``, prometheus-client.

Logs are one JSON object a line (coloured text on a terminal) with ``service``, and with ``request_id``, ``correlation_id`` and
``trace_id`` while a request is handled. Nothing is logged per successful event. Metrics are made where they are counted; label
children are to be cached by the caller (``labels()`` costs 1.6 us).
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import structlog
from prometheus_client import REGISTRY, Gauge
from prometheus_client.exposition import choose_encoder
from structlog.typing import EventDict, WrappedLogger

from tas_mcp.metrics import Counter, Histogram

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZE_BUCKETS = (128, 256, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)

Labels = TypeVar("Labels", bound=tuple[str, ...])

LEVELS = ("debug", "info", "warning", "error")


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry ``component=name``; takes effect whenever ``configure`` is called."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return bound


class _Configured:
    """What ``configure`` was last told."""

    service, level, form = "", "info", "auto"


def level() -> str:
    """The level in force."""
    return _Configured.level


def relevel(level: str) -> None:
    """Change the level of all logs of this process, now."""
    configure(_Configured.service, level, _Configured.form)


def configure(service: str, level: str = "info", form: str = "auto") -> None:
    """Send all logs, those of libraries too, to standard error. ``form``: json, text, or auto (text on a terminal)."""
    _Configured.service, _Configured.level, _Configured.form = service, level, form
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]

    def stamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        stamp,
    ]
    if text:
        shared.append(_one_line)
    ending: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if text
        else structlog.processors.JSONRenderer(serializer=lambda value, **_: msgspec.json.encode(value, enc_hook=str).decode())
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, ending],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, ending],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    # aiohttp logs a traceback for each malformed request: whoever likes could fill the disk. Our own errors are answered, and
    # logged, by tas_mcp.http.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Write what would break a line, or move the cursor of a terminal, as its escape: much of what is logged was sent by somebody
    (JSON does so by itself)."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in value)
    return event


@contextmanager
def context(**values: str) -> Iterator[None]:
    """Add ``values`` to every line logged inside (empty ones are left out)."""
    with structlog.contextvars.bound_contextvars(**{k: v for k, v in values.items() if v}):
        yield


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(name, help, labels)


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
    return Gauge(name, help, labels)


def show(gauge: Gauge, values: Mapping[Labels, float]) -> None:
    """Let a gauge have these children and no others, by their label values: what is gone is not told of for ever."""
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*labels).set(value)


def histogram(name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS) -> Histogram:
    return Histogram(name, help, labels, buckets)


def total(name: str, **labels: Sequence[str]) -> float:
    """The sum of a counter of this process over its children, or of those whose labels have one of the values given."""
    samples = (sample for metric in REGISTRY.collect() if metric.name == name for sample in metric.samples)
    return sum(sample.value for sample in samples if all(sample.labels[key] in values for key, values in labels.items()))


def page_type(accept: str) -> str:
    """The content type of what ``render`` gives to a scraper with this Accept header."""
    return choose_encoder(accept)[1]


def render(accept: str) -> tuple[bytes, str]:
    """All metrics of this process as the scraper wants them (``accept`` is its Accept header): body and content type."""
    encoder, content_type = choose_encoder(accept)
    return encoder(REGISTRY), content_type
