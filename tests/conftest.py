"""Fixtures of all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.nats_server import NatsServer

# The processes that tests start are to start as fast as a user's: from compiled code.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No bounds of time: they measure the machine. The rest is as Hypothesis has it; where CI is set, the same examples every time.
settings.register_profile("tas", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tas")


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A started nats-server with JetStream, of this test alone."""
    server = NatsServer(tmp_path).start()
    try:
        yield server
    finally:
        server.kill()
