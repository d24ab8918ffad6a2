"""The stage of a benchmark: real processes on this machine, pinned to cores, ended when it is over."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SYSTEM, OTHER = {0}, {min(1, (os.cpu_count() or 1) - 1)}
BOTH = SYSTEM | OTHER
READY_SECONDS = 30.0
STORE_BYTES = 15 << 30
START_SECONDS = 1.5
"""After so long a process has imported all that it needs: what it does then is what is worth a look."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str, method: str = "GET", body: Any = None, timeout: float = 10.0) -> Any:
    """The decoded JSON of an answer (None where it has no body)."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        text = response.read()
    return json.loads(text) if text else None


def wait_for(url: str, seconds: float = READY_SECONDS) -> None:
    """Until the URL answers 200."""
    end = time.monotonic() + seconds
    while True:
        try:
            get(url)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise TimeoutError(f"{url} is not ready after {seconds:g} s") from None
            time.sleep(0.05)
        else:
            return


def wait_for_port(port: int, seconds: float = READY_SECONDS) -> None:
    """Until somebody listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens on {port} after {seconds:g} s") from None
            time.sleep(0.05)
        else:
            return


class Stage:
    """Starts processes and ends them all. ``profiled`` names a service that py-spy is to look at while it is measured."""

    profiled = ""
    profile_seconds = 4

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tas-bench-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ops: dict[str, int] = {}
        self._rss: dict[str, list[int]] = {}
        self._stop = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()
        self.nats_port = free_port()
        self.nats_url = f"nats://127.0.0.1:{self.nats_port}"
        self._nodes: dict[str, tuple[int, int]] = {}
        self.http_port = free_port()
        self.control_port = free_port()
        self.grpc_port = free_port()

    def start(self, name: str, command: Sequence[str], cores: set[int], env: dict[str, str] | None = None) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        os.sched_setaffinity(process.pid, cores)
        self._processes[name] = process

    def nats(self, cores: set[int]) -> None:
        self._nats("nats", self.nats_port, cores)

    def _nats(self, name: str, port: int, cores: set[int], more: str = "") -> None:
        config = self.folder / f"{name}.conf"
        config.write_text(
            f"host: 127.0.0.1\nport: {port}\nmax_payload: 8MB\nmax_pending: 256MB\n"
            f'jetstream {{ store_dir: "{self.folder}/js-{name}", max_file_store: 20GB }}\n{more}'
        )
        self.start(name, [str(Path(sys.executable).parent / "nats-server"), "-c", str(config)], cores)

    def cluster(self, cores: set[int], names: Sequence[str]) -> None:
        """Brokers that know each other."""
        self._nodes = {name: (free_port(), free_port()) for name in names}
        self.nats_url = ",".join(f"nats://127.0.0.1:{port}" for port, _ in self._nodes.values())
        for name in names:
            self.node(name, cores)

    def node(self, name: str, cores: set[int]) -> None:
        """Start a broker of the cluster, or start it again."""
        port, own = self._nodes[name]
        routes = ", ".join(f"nats://127.0.0.1:{route}" for _, route in self._nodes.values())
        more = f"server_name: {name}\ncluster {{ name: bench, listen: 127.0.0.1:{own}, routes: [{routes}] }}\n"
        self._nats(name, port, cores, more)
        wait_for_port(port)

    def broker(self, cores: set[int]) -> None:
        """The broker, and the control service that makes its streams."""
        self.nats(cores)
        self.service("control", cores, store_bytes=STORE_BYTES)
        self.ready("control")

    def service(
        self, name: str, cores: set[int], label: str = "", environ: dict[str, str] | None = None, /, **settings: Any
    ) -> None:
        """Start a service; a second one of its kind under a ``label``, with ports of its own. ``environ`` is what it is told
        besides its settings."""
        label = label or name
        self._ops[label] = free_port()
        ports = {"ingest": self.http_port, "control": self.control_port}
        env = {
            "TAS_NATS_URL": self.nats_url,
            "TAS_OPS_PORT": str(self._ops[label]),
            "TAS_ALLOWED_NETWORKS": "127.0.0.0/8",
            "TAS_AUTH": "none",
        }
        if name == "ingest":
            env["TAS_GRPC_PORT"] = str(self.grpc_port)
        if name in ports:
            env["TAS_HTTP_PORT"] = str(ports[name])
        env |= {f"TAS_{key.upper()}": str(value) for key, value in settings.items()} | (environ or {})
        self.start(label, [sys.executable, "-m", f"services.{name}"], cores, env)
        if label == self.profiled:
            threading.Timer(START_SECONDS, self._profile, (name, self._processes[name].pid)).start()

    def _profile(self, name: str, pid: int) -> None:
        """Leave a flame graph in the current folder."""
        command = [str(Path(sys.executable).parent / "py-spy"), "record", "-d", str(self.profile_seconds), "-r", "250"]
        subprocess.run([*command, "-o", f"profile-{name}.svg", "-p", str(pid)], check=False, capture_output=True)

    def ready(self, name: str) -> None:
        try:
            wait_for(f"http://127.0.0.1:{self._ops[name]}/ready")
        except TimeoutError:
            raise TimeoutError(f"{name} is not ready:\n{(self.folder / f'{name}.log').read_text()[-2000:]}") from None

    def stop(self, name: str) -> None:
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, name: str) -> None:
        """``kill -9``."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def run(self, command: Sequence[str], cores: set[int]) -> Any:
        """Run to the end; the last line of its standard output is JSON."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        os.sched_setaffinity(process.pid, cores)
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}")
        return json.loads(output.splitlines()[-1])

    def sink(self, cores: set[int]) -> int:
        port = free_port()
        self.start("sink", [sys.executable, "-m", "bench.sink", str(port)], cores)
        wait_for(f"http://127.0.0.1:{port}/stats")
        return port

    def target(self, document: dict[str, Any]) -> None:
        get(f"http://127.0.0.1:{self.control_port}/api/v1/forwarding/targets", "POST", document)

    def stats(self) -> Any:
        return get(f"http://127.0.0.1:{self.control_port}/api/v1/stats")

    def memory(self) -> dict[str, tuple[float, float]]:
        """MiB of each process: in the middle of its life, and the most."""
        mib = 1 << 20
        return {name: (seen[len(seen) // 2] / mib, max(seen) / mib) for name, seen in self._rss.items() if seen}

    def cpu_seconds(self, name: str) -> float:
        return cpu_seconds(self.pid(name))

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def mib(self, name: str) -> float:
        """The memory of a process now."""
        return _resident(self._processes[name].pid) / (1 << 20)

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            for name, process in list(self._processes.items()):
                try:
                    self._rss.setdefault(name, []).append(_resident(process.pid))
                except (OSError, IndexError):
                    continue

    def close(self) -> None:
        self._stop.set()
        for name in list(self._processes):
            self.stop(name)
        shutil.rmtree(self.folder, ignore_errors=True)


def cpu_seconds(pid: int) -> float:
    """What a process has used (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage with its end."""
    here = Stage()
    try:
        yield here
    finally:
        here.close()
