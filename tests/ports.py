"""Ports for what tests start, each given once.

They are below the range from which the kernel takes ports for outgoing connections: one of those could sit on the port of a
service that is down, and a client that dials such a port may even be connected to itself.
"""

import random
import socket

PORTS = random.sample(range(15_000, 32_000), 17_000)


def free_port() -> int:
    """A port on which nobody listens."""
    while True:
        port = PORTS.pop()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
