"""What the documents of all target types have in common."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from tas_mcp import subjects
from tas_mcp.durations import Duration
from tas_mcp.errors import Flaw
from tas_mcp.routing import FieldSyntaxError, Rule, Split, compile_field
from tas_mcp.targets.masking import Path
from tas_mcp.targets.policies import BreakerPolicy, HealthCheck, RateLimit, Retry, breaker_flaws, health_flaws, retry_flaws


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the lane treats a target, whatever its type. A type adds how it sends."""

    timeout: Duration = Duration(15)
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 64
    batch_size: Annotated[int, Meta(ge=1, le=1000)] = 1
    """How many deliveries go into one request, for types that can."""
    batch_timeout: Duration = Duration(0.1)
    """How long a request waits to be filled."""
    retry: Retry = Retry()
    max_queue: Annotated[int, Meta(ge=1)] = 1_000_000
    overflow: Literal["dead", "drop"] = "dead"
    breaker: BreakerPolicy = BreakerPolicy()
    rate_limit: RateLimit | None = None
    health_check: HealthCheck | None = None
    expires: Duration | None = None
    """How old an event may be when it is tried; an older one is dead, with the reason ``expired``."""


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every type of target has. A type adds ``config`` (a ``Config`` of its own or None), ``delivery``, which is that or
    its defaults, and ``flaws``, which finds what its types alone do not say."""

    secrets: ClassVar[tuple[Path, ...]] = ()
    """What nobody may read back."""

    id: str
    name: str | None = None
    enabled: bool = True
    paused: bool = False
    split_group: str | None = None
    """Of the matching targets of one group exactly one takes the event, in proportion to the weights."""
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    split_key: str | None = None
    """The field that decides which: the same value, the same target. By default, and where it is missing, the event_id."""
    rules: list[Rule] | None = None

    @property
    def split(self) -> Split | None:
        """The target's part in its split group."""
        if self.split_group is None:
            return None
        return Split(self.split_group, self.weight, compile_field(self.split_key or "event_id"))


class Removed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="removed"):
    """A tombstone: the target is deleted, and what is queued for it is on its way to DEAD, or dropped."""

    id: str
    queue: Literal["dead", "discard"] = "dead"


def check_id(target_id: str) -> list[Flaw]:
    if not 0 < len(target_id.encode()) <= 64 or not target_id.isprintable():
        return [Flaw("/id", "must be 1 to 64 bytes of printable text")]
    if target_id == subjects.POISON:
        return [Flaw("/id", f"{subjects.POISON} is reserved")]
    return []


def check_config(config: Config) -> list[Flaw]:
    flaws = [*retry_flaws(config.retry, "/config/retry"), *breaker_flaws(config.breaker, "/config/breaker")]
    flaws += health_flaws(config.health_check, "/config/health_check")
    if not 0 < config.timeout <= 300:
        flaws.append(Flaw("/config/timeout", "must be above 0 and at most 5m"))
    if not 0 < config.batch_timeout <= 60:
        flaws.append(Flaw("/config/batch_timeout", "must be above 0 and at most 1m"))
    if config.expires is not None and config.expires <= 0:
        flaws.append(Flaw("/config/expires", "must be above 0"))
    return flaws


def check_split(target: Target) -> list[Flaw]:
    flaws = []
    group = target.split_group
    if group is not None and (not 0 < len(group.encode()) <= 64 or not group.isprintable()):
        flaws.append(Flaw("/split_group", "must be 1 to 64 bytes of printable text"))
    if target.split_key is not None:
        try:
            compile_field(target.split_key)
        except FieldSyntaxError as error:
            flaws.append(Flaw("/split_key", str(error)))
    return flaws
