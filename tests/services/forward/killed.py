"""The real forward service, which ends itself with SIGKILL at a chosen step: ``python -m tests.services.forward.killed POINT N``
at the N-th time that it comes there. The steps are wrapped here, so that the service has no switch for it."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from services.forward.main import main
from services.forward.storage import Storage
from services.forward.targets.grpc import Grpc
from services.forward.targets.http import Http
from tas_mcp.broker import Pulled
from tas_mcp.outcomes import Outcomes

Step = Callable[..., Any]


class Countdown:
    """Called, it kills the process at the N-th time."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __call__(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def before(step: Step, strike: Countdown) -> Step:
    def struck(*args: Any, **options: Any) -> Any:
        strike()
        return step(*args, **options)

    return struck


def after(step: Step, strike: Countdown) -> Step:
    def struck(*args: Any, **options: Any) -> None:
        step(*args, **options)
        strike()

    return struck


def after_awaited(step: Step, strike: Countdown) -> Step:
    async def struck(*args: Any, **options: Any) -> Any:
        answer = await step(*args, **options)
        strike()
        return answer

    return struck


POINTS: dict[str, tuple[type, str, Callable[[Step, Countdown], Step]]] = {
    "before the send": (Http, "send", before),
    "after the send": (Http, "send", after_awaited),
    "before the batch": (Grpc, "send_batch", before),
    "after the batch": (Grpc, "send_batch", after_awaited),
    "before the dead letter": (Storage, "bury", before),
    "after the dead letter": (Storage, "bury", after_awaited),
    "before parking": (Storage, "park", before),
    "after parking": (Storage, "park", after_awaited),
    "before the outcome is stored": (Outcomes, "_publish", before),
    "after that, before the ack": (Pulled, "ack", before),
    "after the ack": (Pulled, "ack", after),
}
"""Where: a step of a class, and on which side of it."""


if __name__ == "__main__":
    point, calls = sys.argv.pop(1), int(sys.argv.pop(1))
    kind, name, wrapped = POINTS[point]
    setattr(kind, name, wrapped(getattr(kind, name), Countdown(calls)))
    main()
