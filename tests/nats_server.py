"""A real nats-server for tests: on a free port that stays the same over restarts, its store in a folder of the test."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.ports import free_port

BINARY = Path(sys.executable).parent / "nats-server"
START_SECONDS = 60.0


class NatsServer:
    """``config`` is the text of a configuration file, for what has no flag (accounts, limits); by it the server may be ``silent``
    until the client speaks."""

    def __init__(self, folder: Path, config: str = "", silent: bool = False) -> None:
        self.folder = folder
        self._silent = silent
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._flags = ["-js", "-sd", str(folder / "js"), "-a", "127.0.0.1", "-p", str(self.port)]
        if config:
            path = folder / "nats.conf"
            path.write_text(config)
            self._flags += ["-c", str(path)]

    def start(self) -> "NatsServer":
        """Start, and return when it takes connections."""
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([BINARY, *self._flags], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nats-server did not start: " + (self.folder / "nats.log").read_text()[-2000:])
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End it in good order; its store stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it again, on the same port and store."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP, and return when every thread stands: the signal is sent to all, but each takes it in its own time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + START_SECONDS
        while not all(_stands(thread) for thread in Path(f"/proc/{self._process.pid}/task").iterdir()):
            if time.monotonic() > deadline:
                raise RuntimeError("nats-server does not stand still")
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as link:
                return self._silent or link.recv(4) == b"INFO"
        except OSError:
            return False


def _stands(thread: Path) -> bool:
    """Whether a thread is stopped (proc(5): its state follows the name in parentheses)."""
    return (thread / "stat").read_text().rpartition(") ")[2].startswith("T")
