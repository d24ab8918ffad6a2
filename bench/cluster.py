"""(h) A thousand targets on three brokers that keep everything thrice: what idling costs, that each target gets each event, also
when the broker that leads their queue is killed meanwhile. Once with the consumers' state in files, once in memory."""

import asyncio
import time
import urllib.error
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from bench.stage import BOTH, STORE_BYTES, Stage, get, stage
from bench.table import Row
from tas_mcp import subjects
from tas_mcp.broker import Connection, JetStream

TARGETS = 1000
AT_ONCE = 20
NODES = ("one", "two", "three")
SETTLE_SECONDS = 10.0
LOOK_SECONDS = 20.0
EVENTS = 10
"""Each goes to all targets."""
PAUSE_SECONDS = 0.5
"""Between two events while a broker dies."""
DOWN_SECONDS = 5.0
PATIENCE_SECONDS = 180.0


def measure(seconds: float, rounds: int) -> list[Row]:
    return [row for in_memory in (False, True) for row in _measured(in_memory, seconds)]


def _measured(in_memory: bool, seconds: float) -> list[Row]:
    where = "in memory" if in_memory else "in files"
    with stage() as here:
        here.cluster(BOTH, NODES)
        here.service("control", BOTH, store_bytes=STORE_BYTES // 3, replicas=3, target_consumers_in_memory=in_memory)
        here.ready("control")
        here.service("forward", BOTH)
        here.ready("forward")
        url = f"http://127.0.0.1:{here.sink(BOTH)}"
        alone, before = _costs(here, seconds), here.mib("forward")
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda number: _add(here, url, number), range(TARGETS)))
        here.ready("forward")
        made = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        idle, after = _costs(here, LOOK_SECONDS), here.mib("forward")
        _, leaders = asyncio.run(_leaders(here.nats_url))
        for name in ("ingest", "process"):
            here.service(name, BOTH)
        for name in ("ingest", "process"):
            here.ready(name)
        rate = _delivered(here, url)
        lost, twice, stall = _killed(here, url)
    share = ", ".join(f"{name} {count}" for name, count in sorted(leaders.items()))
    brokers = sum(idle[name] - alone[name] for name in NODES)
    return [
        Row(what=f"R3, consumers {where}: forward, {TARGETS} idle targets", value=100 * (idle["forward"] - alone["forward"]),
            unit="% of a core", must=5, at_most=True),
        Row(what=f"R3, consumers {where}: forward's memory", value=after - before, unit="MiB", must=100, at_most=True),
        Row(what=f"R3, consumers {where}: three brokers, idle", value=100 * brokers, unit="% of a core"),
        Row(what=f"R3, consumers {where}: making {TARGETS} targets", value=made, unit="s", note=f"led by: {share}"),
        Row(what=f"R3, consumers {where}: deliveries", value=rate, unit="/s"),
        Row(what=f"R3, consumers {where}: missing after kill -9", value=lost, unit="deliveries", must=0, at_most=True,
            note=f"{twice} came twice, nothing came for {stall:.1f} s at most"),
    ]  # fmt: skip


def _add(here: Stage, url: str, number: int) -> None:
    here.target({"id": f"t{number}", "type": "webhook", "endpoint": f"{url}/{number}"})


def _costs(here: Stage, seconds: float) -> dict[str, float]:
    """The share of a core that forward and each broker take."""
    names = ("forward", *NODES)
    began, used = time.monotonic(), {name: here.cpu_seconds(name) for name in names}
    time.sleep(seconds)
    took = time.monotonic() - began
    return {name: (here.cpu_seconds(name) - used[name]) / took for name in names}


async def _leaders(urls: str) -> tuple[str, Counter[str]]:
    """Who leads the deliveries' stream, and how many of its consumers each broker leads."""
    connection = Connection(urls.split(","), "bench")
    async with connection.running():
        await connection.ready()
        jetstream = JetStream(connection)
        stream = await jetstream.stream_info(subjects.DELIVERIES)
        consumers = await jetstream.consumers(subjects.DELIVERIES)
        return stream["cluster"]["leader"], Counter(each["cluster"].get("leader", "nobody") for each in consumers)


def _delivered(here: Stage, url: str) -> float:
    """Deliveries a second of events that are sent at once."""
    get(url + "/reset", "POST")
    for number in range(EVENTS):
        _send(here, f"first-{number}")
    stats = _received(url, EVENTS * TARGETS)
    return stats["distinct"] / stats["seconds"]


def _killed(here: Stage, url: str) -> tuple[int, int, float]:
    """How many deliveries are missing when their queue's leader was killed amidst them, how many came twice, and how long none
    came."""
    leader, _ = asyncio.run(_leaders(here.nats_url))
    get(url + "/reset", "POST")
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_send_all, here)
        _received(url, TARGETS)
        here.kill(leader)
        time.sleep(DOWN_SECONDS)
        here.node(leader, BOTH)
        sending.result()
    stats = _received(url, EVENTS * TARGETS)
    return int(EVENTS * TARGETS - stats["distinct"]), int(stats["received"] - stats["distinct"]), stats["gap"]


def _send_all(here: Stage) -> None:
    for number in range(EVENTS):
        _send(here, f"second-{number}")
        time.sleep(PAUSE_SECONDS)


def _send(here: Stage, event_id: str) -> None:
    """As a client does that wants it stored: again, with the same id, until it is."""
    event = {"event_id": event_id, "event_type": "order.created", "source": "bench", "data": {"n": 1}}
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            get(f"http://127.0.0.1:{here.http_port}/api/v1/events", "POST", event)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _received(url: str, deliveries: int) -> dict[str, float]:
    """The sink's figures once it has that many, or does not get them in time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        stats: dict[str, float] = get(url + "/stats")
        if stats["distinct"] >= deliveries or time.monotonic() > end:
            return stats
        time.sleep(0.2)
