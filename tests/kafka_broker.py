"""A real Kafka (one node, KRaft) for tests: on a free port that stays the same over restarts, its data in a folder of the test.

It needs Java 17 or newer on the PATH and, the first time, Maven, which fetches the jars into the user's cache. As a program it
runs one until it is ended, after a line with its address, for ``TAS_TEST_KAFKA``.
"""

import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from tests.ports import free_port

ADDRESS = os.environ.get("TAS_TEST_KAFKA", "")
needs_kafka = pytest.mark.skipif(
    not ADDRESS, reason="needs a Kafka: TAS_TEST_KAFKA=host:port (python -m tests.kafka_broker runs one)"
)

VERSION = "4.4.0"
START_SECONDS = 90.0
FETCH_SECONDS = 600.0
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tas-mcp"
POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
controller.listener.names=CONTROLLER
log.dirs={folder}/log
num.partitions=3
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# After kill -9 the controller refuses the new broker until the session of the old one ends (9 s by default).
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
{more}
"""


class NoKafka(Exception):
    """Why there can be none here."""


class KafkaBroker:
    """``listeners`` (``,SASL_SSL://127.0.0.1:<port>``) and lines of properties are added to its configuration; ``users`` are
    those of SCRAM, as its storage tool takes them."""

    def __init__(self, folder: Path, *, listeners: str = "", more: str = "", users: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._jars = jars()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = folder / "server.properties"
        (folder / "tmp").mkdir(parents=True)
        ports = {"port": self.port, "controller": free_port()}
        self._properties.write_text(PROPERTIES.format(folder=folder, listeners=listeners, more=more, **ports))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]
        options = (f"--cluster-id={cluster}", f"--config={self._properties}", *(f"--add-scram={user}" for user in users))
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", *options), check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise NoKafka(f"the storage could not be formatted: {(done.stdout + done.stderr)[-1000:]}")

    def start(self) -> "KafkaBroker":
        """Start, and return when it serves."""
        path = self._folder / "server.log"
        with path.open("ab") as log:
            self._process = subprocess.Popen(self._java("kafka.Kafka", str(self._properties)), stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise NoKafka(f"the broker does not serve: {path.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """``kill -9``; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _java(self, main: str, *arguments: str) -> list[str]:
        options = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={self._folder}/tmp")
        return ["java", *options, "-cp", f"{self._jars}/*", main, *arguments]

    def _serves(self) -> bool:
        """Whether it answers a Metadata request, version 1, with itself: one that is fenced names nobody."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as link:
                link.sendall(struct.pack(">ihhih2si", 16, 3, 1, 7, 2, b"up", 0))
                return link.recv(12, socket.MSG_WAITALL)[8:] == struct.pack(">i", 1)
        except OSError:
            return False


def jars() -> Path:
    """The folder of Kafka's jars, fetched once.

    Raises:
        NoKafka: Java or Maven is missing, or fetching failed.
    """
    said = (
        subprocess.run(["java", "-version"], check=False, capture_output=True, text=True).stderr if shutil.which("java") else ""
    )
    version = re.search(r'version "(\d+)', said)
    if not version or int(version[1]) < 17:
        raise NoKafka("Java 17 or newer is not on the PATH")
    found = CACHE / f"kafka-{VERSION}-{hashlib.sha256(POM.encode()).hexdigest()[:8]}"
    if found.is_dir():
        return found
    if not shutil.which("mvn"):
        raise NoKafka("Maven, which fetches the jars of Kafka, is not on the PATH")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        Path(folder, "pom.xml").write_text(POM)
        command = ["mvn", "-B", "-q", f"{PLUGIN}:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
        try:
            done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=FETCH_SECONDS)
        except subprocess.TimeoutExpired:
            raise NoKafka(f"Maven did not fetch the jars within {FETCH_SECONDS:.0f} s") from None
        if done.returncode:
            raise NoKafka(f"Maven could not fetch the jars: {(done.stdout + done.stderr)[-1000:]}")
        Path(folder, "jars").rename(found)
    return found


async def consumed(address: str, topic: str, count: int) -> list[Any]:
    """The first ``count`` records of a topic, those of each partition in order."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", metadata_max_age_ms=200)
    await consumer.start()
    try:
        return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


def main() -> None:
    """Run a broker until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        try:
            broker = KafkaBroker(Path(folder) / "kafka")
        except NoKafka as error:
            sys.exit(f"no Kafka, and no tests with one: {error}")
        try:
            print(broker.start().address, flush=True)
            signal.pause()
        finally:
            broker.kill()


if __name__ == "__main__":
    main()
