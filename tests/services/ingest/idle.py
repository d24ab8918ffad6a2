"""Clients that connect and then do nothing, in a process of their own: ``python -m tests.services.ingest.idle PORT COUNT``.

Each second one begins a request that it never ends. Says how many are connected, and holds them until its standard input ends.
"""

import resource
import socket
import sys


def main(port: int, count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sockets = []
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        if number % 2:
            connection.sendall(b"POST /api/v1/events HTTP/1.1\r\nHost: idle\r\n")
        sockets.append(connection)
    sys.stdout.write(f"{len(sockets)}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
