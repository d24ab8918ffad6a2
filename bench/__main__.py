"""``python -m bench [NAME ...] [--seconds S] [--rounds N] [--json FILE]``"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import msgspec

from bench import (
    backtest,
    cluster,
    consumers,
    endtoend,
    forward,
    grpc_ingest,
    idle,
    ingest,
    isolation,
    routing,
    rules,
    targets,
    tracing,
    websocket,
)
from bench.table import show

BENCHES = {
    "ingest": ingest.measure,
    "tracing": tracing.measure,
    "grpc": grpc_ingest.measure,
    "websocket": websocket.measure,
    "routing": routing.measure,
    "rules": rules.measure,
    "forward": forward.measure,
    "endtoend": endtoend.measure,
    "targets": targets.measure,
    "idle": idle.measure,
    "isolation": isolation.measure,
    "backtest": backtest.measure,
    "cluster": cluster.measure,
    "consumers": consumers.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the speed of this checkout.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of which the median counts (default 3)")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), help="where to write the rows")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHES]
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}")
    rows = []
    began = time.monotonic()
    for name in options.names or BENCHES:
        print(f"-- {name} ...", flush=True)
        found = BENCHES[name](options.seconds, options.rounds)
        print(show(found), flush=True)
        rows += found
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"
    options.json.write_text(json.dumps({"machine": machine, "at": time.time(), "rows": msgspec.to_builtins(rows)}, indent=1))
    print(f"{machine}; {time.monotonic() - began:.0f} s; written to {options.json}")


if __name__ == "__main__":
    main()
