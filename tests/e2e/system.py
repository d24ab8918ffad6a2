"""The gateway as it runs in production, in small: nats-server and the four services as processes of their own, on free ports of
the loopback interface, each killed, stopped, paused and started again by its pid. Logs go to the test's folder.

``TAS_TEST_TREE`` names another checkout whose services are to be run: a frozen copy for a long run, or one with a deliberate bug.
"""

import asyncio
import ctypes
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
TREE = Path(os.environ.get("TAS_TEST_TREE") or ROOT)
BIN = Path(sys.executable).parent
EVENTS = "/api/v1/events"
BATCH = "/api/v1/events/batch"
TARGETS = "/api/v1/forwarding/targets"
DEAD = "/api/v1/dead-letters"
STATS = "/api/v1/stats"
SERVICES = ("control", "process", "forward", "ingest")
ALL = ("nats", *SERVICES)
DEADLINE_SECONDS = 60.0
START_SECONDS = 60.0
"""Five processes started at once take two seconds, or twenty on a machine that has other things to do."""
SETTINGS = {
    "TAS_AUTH": "none",
    "TAS_STORE_BYTES": str(2 * 1024**3),
    "TAS_PROCESS_ACK_WAIT_SECONDS": "4",
    "TAS_TARGET_ACK_WAIT_SECONDS": "4",
    "TAS_JANITOR_SECONDS": "1",
    "TAS_DRAIN_SECONDS": "20",
    "TAS_ALLOWED_NETWORKS": "127.0.0.0/8",
}
"""Shorter waits than in production, so that what a killed process held comes back soon; targets may be on this machine, and
nobody needs a key."""
NATS = TREE / "deploy" / "nats"
"""The configuration of the broker is the one that we ship: each service may do there what it may in production."""
VIOLATION = re.compile(r"^.*(?:Publish|Subscription) Violation.*$", re.MULTILINE)


class Answer(NamedTuple):
    """An HTTP answer; ``body`` is decoded JSON, or text where it is none."""

    status: int
    body: Any
    headers: Mapping[str, str]
    seconds: float


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = DEADLINE_SECONDS, what: str = "it") -> Any:
    """Ask until the answer is true; its value. Fails when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        await asyncio.sleep(0.02)
    return found


class Program:
    """A process that is started again and again; only ever its own pid is signalled."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = list(command)
        self._environ = {**environment(), **environ}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        assert not self.alive, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=TREE,
                env=self._environ,
                preexec_fn=end_with_us,  # noqa: PLW1509  (no threads here)
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def ended(self, seconds: float) -> int:
        """Wait for its end; the exit code."""
        process = self._process
        assert process is not None

        async def done() -> bool:
            return process.poll() is not None

        await until(done, seconds, f"the end of {self.name}")
        assert process.returncode is not None
        return process.returncode

    def tail(self, characters: int = 2000) -> str:
        return self._log.read_text(errors="replace")[-characters:] if self._log.exists() else ""


def broker(folder: Path, port: int, passwords: Mapping[str, str], config: str = "nats.conf", **environ: str) -> Program:
    """The broker as we ship it, not started yet. It stores in the folder, and lets in users with these passwords."""
    given = {f"TAS_NATS_{name.upper()}_PASSWORD": password for name, password in passwords.items()}
    given |= {"TAS_NATS_STORE_KEY": "", "TAS_NATS_SYNC_INTERVAL": "120s", **environ}
    flags = ["-a", "127.0.0.1", "-p", str(port), "-sd", str(folder / "js"), "-c", str(NATS / config)]
    return Program("nats", [str(BIN / "nats-server"), *flags], given, folder / "nats.log")


class System:
    """The programs, and what tests ask of them."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self._session = session
        self._settings = {**SETTINGS, **settings}
        self.nats_port, self.http_port, self.control_port = free_port(), free_port(), free_port()
        self.ops_ports = {name: free_port() for name in SERVICES}
        self.ingest = f"http://127.0.0.1:{self.http_port}"
        self.control = f"http://127.0.0.1:{self.control_port}"
        self.forgiven: list[str] = []
        self.passwords = {name: secrets.token_hex(32) for name in (*SERVICES, "system")}
        nats = broker(folder, self.nats_port, self.passwords)
        self.programs = {"nats": nats, **{name: self.service(name, self._http_port(name)) for name in SERVICES}}

    def service(self, name: str, http_port: int, *options: str, label: str = "", **settings: Any) -> Program:
        """A process of one of the services, not started yet."""
        label = label or name
        ops_port = self.ops_ports.setdefault(label, free_port())
        login = {"TAS_NATS_USER": name, "TAS_NATS_PASSWORD": self.passwords[name]}
        url = {"TAS_NATS_URL": f"nats://127.0.0.1:{self.nats_port}", "TAS_OPS_PORT": str(ops_port)}
        environ = {**url, **login, **self._settings}
        if http_port:
            environ["TAS_HTTP_PORT"] = str(http_port)
        if name == "ingest":
            environ["TAS_GRPC_PORT"] = str(free_port())
        environ |= {f"TAS_{key.upper()}": str(value) for key, value in settings.items()}
        return Program(label, [sys.executable, "-m", f"services.{name}", *options], environ, self.folder / f"{label}.log")

    def _http_port(self, name: str) -> int:
        return {"ingest": self.http_port, "control": self.control_port}.get(name, 0)

    def ops(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ops_ports[name]}"

    async def start(self) -> None:
        for program in self.programs.values():
            program.start()
        await self.ready(seconds=START_SECONDS)

    async def ready(self, *names: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until these services (all) say that they are ready."""
        for name in names or SERVICES:
            try:
                await until(lambda name=name: self.is_ready(name), seconds, f"{name} being ready")  # type: ignore[misc]
            except AssertionError as error:
                answer = await self.try_call("GET", self.ops(name) + "/ready")
                tail = self.programs[name].tail() if name in self.programs else ""
                raise AssertionError(f"{error}: {answer and answer.body}\n{tail}") from None

    async def is_ready(self, name: str) -> bool:
        answer = await self.try_call("GET", self.ops(name) + "/ready")
        return answer is not None and answer.status == 200

    async def call(self, method: str, url: str, **options: Any) -> Answer:
        """A request; a path alone is one to control."""
        began = time.monotonic()
        url = self.control + url if url.startswith("/") else url
        async with self._session.request(method, url, **options) as response:
            text = await response.text()
            body = await response.json(content_type=None) if "json" in response.content_type else text
            return Answer(response.status, body, response.headers.copy(), time.monotonic() - began)

    async def try_call(self, method: str, url: str, **options: Any) -> Answer | None:
        """As ``call``; None where there is no answer."""
        try:
            return await self.call(method, url, **options)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def send(self, event: Mapping[str, Any]) -> Answer:
        return await self.call("POST", self.ingest + EVENTS, json=event)

    async def put(self, document: Mapping[str, Any]) -> Answer:
        """Create or change a target, and wait until that is in force."""
        answer = await self.change("PUT", f"{TARGETS}/{document['id']}", json=document)
        assert answer.status == 200, answer.body
        return answer

    async def change(self, method: str, path: str, **options: Any) -> Answer:
        """A change by the management API. After a second it answers even if a process replica was too slow to follow, and says
        so: then another change is made and waited for, as revisions come into force in their order."""
        answer = await self.call(method, path, **options)
        if "in_force" in (answer.body or {}):
            marker = {"type": "webhook", "endpoint": "http://127.0.0.1:1/", "enabled": False}

            async def followed() -> bool:
                later = await self.call("PUT", f"{TARGETS}/marker", json=marker)
                return later.status == 200 and "in_force" not in later.body

            await until(followed, what="the change being in force")
            del answer.body["in_force"]
        return answer

    async def dead_letters(self, target_id: str = "") -> list[dict[str, Any]]:
        """All of them, or those of one target."""
        found: list[dict[str, Any]] = []
        query = {"limit": "1000", **({"target": target_id} if target_id else {})}
        while True:
            answer = await self.call("GET", DEAD, params=query)
            assert answer.status == 200, answer.body
            found += answer.body["items"]
            if answer.body["next"] is None:
                return found
            query["cursor"] = answer.body["next"]

    async def is_drained(self) -> bool:
        """Whether nothing is on its way any more: no event undecided, nothing owed to a target."""
        answer = await self.try_call("GET", STATS)
        if answer is None or answer.status != 200:
            return False
        stats = answer.body
        return not (stats["process"]["pending"] or stats["process"]["ack_pending"] or stats["streams"]["DELIVERIES"]["messages"])

    async def drained(self, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until nothing is on its way. Seen twice, as one look reads one number after the other."""

        async def twice() -> bool:
            return await self.is_drained() and await self.is_drained()

        try:
            await until(twice, seconds, "the drain")
        except AssertionError as error:
            answer = await self.try_call("GET", STATS)
            raise AssertionError(f"{error}: {answer and answer.body}") from None

    @property
    def violations(self) -> list[str]:
        """What clients were refused by the broker, as its log tells, but for what was ``forgiven``."""
        found = VIOLATION.findall(self.programs["nats"].tail(100_000_000))
        return [each for each in found if each not in self.forgiven]

    def close(self) -> None:
        for program in self.programs.values():
            program.kill()


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[System]:
    """All of it, ready; ended at the end."""
    connector = aiohttp.TCPConnector(force_close=True)  # what a killed process leaves in a pool would fail the next request
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        system = System(folder, session, settings)
        try:
            await system.start()
            yield system
        finally:
            system.close()


def environment() -> dict[str, str]:
    """Our own environment without settings of the gateway, importing from the tree under test."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TAS_")}
    return {**plain, "PYTHONPATH": f"{TREE}:{TREE / 'shared'}"}


def end_with_us() -> None:
    """In the child: end when the test run ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether there is such a process (one that has ended and is not waited for yet is none)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
