"""Target type ``kafka``: its document."""

import re
from typing import Literal

from msgspec import Struct

from tas_mcp.errors import Flaw
from tas_mcp.targets.http import SECRET_HEADERS
from tas_mcp.targets.target import Config, Target
from tas_mcp.targets.text import text_flaws
from tas_mcp.targets.tls import Tls
from tas_mcp.validation import escape

OWN_HEADERS = ("content-type", "webhook-id")
_BROKER = re.compile(r"(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\]):([1-9][0-9]{0,4})")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Sasl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who we are to the brokers."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str
    password: str


class KafkaConfig(Config, frozen=True, kw_only=True):
    """How to deliver to Kafka. ``topic`` and ``key`` may be Liquid templates; without a key (``""``) records are spread over the
    partitions."""

    topic: str
    key: str = "{{ event.event_id }}"
    format: Literal["tas", "data", "cloudevents", "cloudevents-binary"] = "tas"
    headers: dict[str, str] = {}
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    sasl: Sasl | None = None
    tls: Tls | None = None


class KafkaTarget(Target, frozen=True, kw_only=True, tag="kafka"):
    """Produces to one topic of the cluster that ``kafka://host:port,host:port`` leads to."""

    secrets = (("config", "sasl", "password"), ("config", "tls", "key"), ("config", "headers", SECRET_HEADERS))

    endpoint: str
    config: KafkaConfig

    @property
    def delivery(self) -> KafkaConfig:
        return self.config

    @property
    def brokers(self) -> list[tuple[str, int]]:
        """Host and port of each broker to begin with."""
        found = map(_BROKER.fullmatch, self.endpoint.removeprefix("kafka://").split(","))
        return [(match[1] or match[2], int(match[3])) for match in found if match]

    def flaws(self) -> list[Flaw]:
        config, scheme, names = self.config, *self.endpoint.partition("://")[::2]
        flaws = config.tls.flaws() if config.tls else []
        if scheme != "kafka" or len(self.brokers) != names.count(",") + 1 or any(port > 65535 for _, port in self.brokers):
            flaws.append(Flaw("/endpoint", "must be kafka://host:port[,host:port]..."))
        form = "must be 1 to 249 letters, digits, dots, underscores and hyphens, or a template"
        flaws += [
            *text_flaws(config.topic, "/config/topic", is_topic, form),
            *text_flaws(config.key, "/config/key", lambda _: True, ""),
        ]
        for name in config.headers:
            if not name or name.lower() in OWN_HEADERS or name.lower().startswith("ce_"):
                flaws.append(Flaw("/config/headers/" + escape(name), "is empty, or set by the gateway itself"))
        return flaws


def is_topic(text: str) -> bool:
    return _TOPIC.fullmatch(text) is not None and text not in (".", "..")
