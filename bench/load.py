"""HTTP load: ``wrk`` where it is installed (as fast as answers come), else, and at a steady rate, the bundled generator."""

import json
import re
import shutil
import subprocess
import sys
from typing import Any

from bench.generator import DATA
from bench.stage import OTHER, Stage

WRK = shutil.which("wrk")
SCRIPT = """
local n, thread = 0, 0
function setup(t) t:set("thread", thread); thread = thread + 1 end
function init(args) prefix = thread .. "-" .. os.time() .. "-" end
local types = {["Content-Type"] = "application/json"%s}
function request()
  n = n + 1
%s
end
function done(summary, latency, requests)
  io.write(string.format('JSON {"rate": %%f, "p50_ms": %%f, "p99_ms": %%f, "refused": %%d}\\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""

PLAIN = """
  return wrk.format("POST", "/api/v1/events", types, '{"event_id":"' .. prefix .. n .. '","event_type":"%s",' ..
    '"source":"bench","timestamp":1700000000,"data":%s,"metadata":{"correlation_id":"req-789"}}')
"""
BINARY = """
  types["ce-specversion"], types["ce-source"], types["ce-type"] = "1.0", "bench", "%s"
  types["ce-id"], types["ce-time"], types["ce-correlationid"] = prefix .. n, "2023-11-14T22:13:20Z", "req-789"
  return wrk.format("POST", "/api/v1/events", types, '%s')
"""

NAME = "wrk" if WRK else "bundled generator"


def flood(
    stage: Stage,
    port: int,
    seconds: float,
    connections: int = 64,
    event_type: str = "order.created",
    key: str = "",
    form: str = "json",
) -> dict[str, Any]:
    """Single events as fast as answers come, with an API key where there is one; as JSON (``json``) or as CloudEvents in the
    binary mode (``binary``)."""
    if not WRK:
        return generate(stage, port, seconds=seconds, connections=connections, event_type=event_type, key=key, form=form)
    script = stage.folder / "events.lua"
    header = f', ["Authorization"] = "Bearer {key}"' if key else ""
    data = (DATA % 1_700_000_000_000_000_000).replace("%", "%%")
    script.write_text(SCRIPT % (header, (BINARY if form == "binary" else PLAIN) % (event_type, data)))
    command = ["taskset", "-c", ",".join(map(str, OTHER)), WRK, "-t2", f"-c{connections}", f"-d{seconds:g}s"]
    command += ["-s", str(script), f"http://127.0.0.1:{port}/"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"JSON (.*)", text)
    if not found:
        raise RuntimeError(f"wrk said: {text}")
    result: dict[str, Any] = json.loads(found.group(1))
    return result


def generate(stage: Stage, port: int, **options: Any) -> dict[str, Any]:
    """The bundled generator: see its options."""
    command = [sys.executable, "-m", "bench.generator", "--port", str(port)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    result: dict[str, Any] = stage.run(command, OTHER)
    return result
