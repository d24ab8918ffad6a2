"""Target type ``argo-events``: its document."""

from typing import Literal

from tas_mcp.errors import Flaw
from tas_mcp.targets.nats import check_login, check_servers, is_subject
from tas_mcp.targets.target import Config, Target
from tas_mcp.targets.tls import Tls
from tas_mcp.targets.urls import header_value_flaw, url_flaws


class ArgoConfig(Config, frozen=True, kw_only=True):
    """How to deliver to Argo Events. ``token`` is that of the webhook, or of the bus; the other members from ``event_source`` on
    are for a bus."""

    format: Literal["cloudevents", "cloudevents-binary", "tas", "data"] = "cloudevents"
    """Of what a webhook gets; a bus has its own."""
    token: str = ""
    tls: Tls | None = None
    event_source: str = ""
    event_name: str = ""
    user: str = ""
    password: str = ""
    health_check: None = None


class ArgoTarget(Target, frozen=True, kw_only=True, tag="argo-events"):
    """Posts to a webhook EventSource (``https://...``), or publishes on a JetStream EventBus (``nats://host:port[,host:port]``,
    ``tls://...``) as an EventSource of that name would."""

    secrets = (("config", "token"), ("config", "password"), ("config", "tls", "key"))

    endpoint: str
    config: ArgoConfig | None = None

    @property
    def delivery(self) -> ArgoConfig:
        return self.config or ArgoConfig()

    @property
    def on_bus(self) -> bool:
        return self.endpoint.startswith(("nats:", "tls:"))

    def flaws(self) -> list[Flaw]:
        return self._bus_flaws() if self.on_bus else self._webhook_flaws()

    def _webhook_flaws(self) -> list[Flaw]:
        config = self.delivery
        flaws = [*url_flaws(self.endpoint, "/endpoint"), *(config.tls.flaws() if config.tls else [])]
        if config.tls and not self.endpoint.startswith("https:"):
            flaws.append(Flaw("/config/tls", "is for https:// endpoints"))
        if detail := header_value_flaw(config.token):
            flaws.append(Flaw("/config/token", detail))
        given = {"event_source": config.event_source, "event_name": config.event_name, "user": config.user}
        return flaws + [Flaw(f"/config/{name}", "is for an EventBus (nats://...)") for name, value in given.items() if value]

    def _bus_flaws(self) -> list[Flaw]:
        config = self.delivery
        flaws = [*check_servers(self.endpoint), *check_login(config.user, config.password, config.token, config.tls)]
        for name, value in (("event_source", config.event_source), ("event_name", config.event_name)):
            if not is_subject(value) or "." in value:
                flaws.append(
                    Flaw(f"/config/{name}", "must be a name without dots, blanks and wildcards: it is part of a subject")
                )
        return flaws
