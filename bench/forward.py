"""(c) Forward: deliveries/s of one process on one core to one local sink, against a bare aiohttp client loop."""

import sys
import time
from statistics import median

from bench import load
from bench.stage import OTHER, SYSTEM, Stage, get, stage
from bench.table import Row

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def measure(seconds: float, rounds: int) -> list[Row]:
    events = int(25_000 * seconds)
    with stage() as here:
        here.broker(OTHER)
        sink = here.sink(OTHER)
        url = f"http://127.0.0.1:{sink}"
        floors, rates = [], []
        for number in range(rounds):
            command = [sys.executable, "-m", "bench.floors", "client", url + "/floor", str(seconds), "64"]
            floors.append(here.run(command, SYSTEM)["rate"])
            target = f"sink{number}"
            _fill(here, target, url, events)
            get(url + "/reset", "POST")
            here.service("forward", SYSTEM)
            began = time.monotonic()
            while (got := get(url + "/stats")["received"]) < events and time.monotonic() - began < 20 + 10 * seconds:
                time.sleep(0.25)
            stats = get(url + "/stats")
            rates.append((got - 1) / stats["seconds"])
            lost = events - stats["distinct"]
            here.stop("forward")
            get(f"http://127.0.0.1:{here.control_port}/api/v1/forwarding/targets/{target}", "DELETE")
        most = here.memory()["forward"][1]
    floor = median(floors)
    return [
        Row(what="forward: signed deliveries to one sink", value=median(rates), unit="/s", floor=floor,
            floor_what="bare aiohttp client", must=8000, note=f"{events} events, {lost} missing"),
        Row(what="forward: memory", value=most, unit="MiB", must=120, at_most=True),
    ]  # fmt: skip


def _fill(here: Stage, target: str, url: str, events: int) -> None:
    """Queue that many deliveries with nobody to send them."""
    here.target(
        {"id": target, "type": "webhook", "endpoint": f"{url}/{target}", "config": {"signing_secret": SECRET},
         "rules": [{"id": "mine", "conditions": [{"field": "event_type", "operator": "eq", "value": target}]}]}
    )  # fmt: skip
    here.service("ingest", SYSTEM)
    here.service("process", SYSTEM)
    here.ready("ingest")
    here.ready("process")
    load.generate(
        here,
        here.http_port,
        batch=100,
        path="/api/v1/events/batch",
        count=events // 100,
        connections=8,
        seconds=120,
        event_type=target,
    )
    end = time.monotonic() + 120
    while here.stats()["streams"]["DELIVERIES"]["messages"] < events:
        if time.monotonic() > end:
            raise TimeoutError("the deliveries were not queued in time")
        time.sleep(0.2)
    here.stop("ingest")
    here.stop("process")
