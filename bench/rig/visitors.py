"""Clients that record each response, while the stack changes; and the audit of the numbers that they received."""

import contextlib
import dataclasses
import re
import socket
import threading
import time

REQUEST = b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Longer than any stack waits for a replica or its store.
PATIENCE = 90
CLIENTS = 16
PAUSE = 0.02


@dataclasses.dataclass
class Audit:
    """What became of the visits of one run: `failed` had no 200; `lost` and `repeated` are numbers of responses that
    the store does not have, or that two visitors received; `doubled` visits were counted more than once, at least."""

    answered: int
    failed: int
    doubled: int
    repeated: int
    lost: int
    slowest: float
    # Failed visits by what the client saw: a status, or a closed connection.
    failures: dict


class Visitors:
    """Clients with connections that they keep, each of which sends the next visit after the response."""

    def __init__(self, stack):
        self.stack = stack
        self.address = (stack.host, stack.port)
        self.stop = threading.Event()
        self.outcomes = []

    def __enter__(self):
        self.before = self.total()
        self.threads = [threading.Thread(target=self.visit, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(PATIENCE + 5)

    def total(self):
        return int(self.stack.redis("GET", "visits") or 0)

    def visit(self):
        """Sends visits until the end, and records what the client saw, the number, and the seconds of each."""
        peer = lines = None
        while not self.stop.is_set():
            start = time.monotonic()
            outcome, number, keeps = "closed", None, False
            with contextlib.suppress(OSError, ValueError):
                if peer is None:
                    peer = socket.create_connection(self.address, PATIENCE)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    lines = peer.makefile("rb")
                peer.sendall(REQUEST)
                outcome, number, keeps = read_response(lines)
            self.outcomes.append((outcome, number, time.monotonic() - start))
            if outcome != "200":
                # Not more of them than of a client that tries again.
                time.sleep(PAUSE)
            if not keeps and peer is not None:
                lines.close()
                peer.close()
                peer = None
        if peer is not None:
            lines.close()
            peer.close()

    def audit(self):
        """Compares the responses with the store, after the clients have ended."""
        counted = self.total() - self.before
        numbers = [number for outcome, number, _ in self.outcomes if outcome == "200"]
        failures = {}
        for outcome, _, _ in self.outcomes:
            if outcome != "200":
                failures[outcome] = failures.get(outcome, 0) + 1
        failed = sum(failures.values())
        distinct = set(numbers)
        # A visit that failed may have been counted once. 503 of notch and of its balancers was not counted, but that of
        # another stack may have been.
        return Audit(
            answered=len(numbers), failed=failed, doubled=max(0, counted - len(distinct) - failed),
            repeated=len(numbers) - len(distinct),
            lost=sum(not self.before < number <= self.before + counted for number in distinct),
            slowest=max((seconds for _, _, seconds in self.outcomes), default=0), failures=failures)


def read_response(lines):
    """Returns the status, the number in the body, and whether the connection stays open. Raises ValueError if the
    response is not complete."""
    status = re.fullmatch(rb"HTTP/1\.[01] (\d{3}) .*\r\n", lines.readline())
    if not status:
        raise ValueError("no response")
    length, keeps = None, True
    while (line := lines.readline()) != b"\r\n":
        name, separator, value = line.partition(b":")
        if not separator:
            raise ValueError("incomplete head")
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"connection":
            keeps = value.strip().lower() != b"close"
    if length is None:
        raise ValueError("no length")
    body = lines.read(length)
    if len(body) < length:
        raise ValueError("incomplete body")
    return status[1].decode(), int(body) if status[1] == b"200" else None, keeps
