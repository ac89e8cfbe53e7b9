"""Processes of ours: each pinned, measured out of /proc, waited for within bounds, and ended with the block it is in."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

HERTZ = os.sysconf("SC_CLK_TCK")
PATIENCE = 20


class Failed(Exception):
    """Something that should work did not."""


def say(words):
    print(f"{os.path.basename(sys.argv[0])}: {words}", file=sys.stderr, flush=True)


def fields(pid):
    """What stands in /proc/PID/stat behind the name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def family(pid):
    """A process and all below it: a server may have workers."""
    parents = {int(name): fields(name)[1:2] for name in os.listdir("/proc") if name.isdigit()}
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == [str(member)]]
    return found


def processor_seconds(pid):
    return sum(int(used) for member in family(pid) for used in fields(member)[11:13]) / HERTZ


def core_seconds(core):
    """What a core has spent on anything but idling and waiting, or what was kept from it."""
    with open("/proc/stat", encoding="ascii") as lines:
        ticks = next(line.split()[1:] for line in lines if line.startswith(f"cpu{core} "))
    return sum(int(ticks[place]) for place in (0, 1, 2, 5, 6, 7)) / HERTZ


class Process:
    """A command of ours on cores of its own, its output in a file."""

    def __init__(self, words, cores, log, environment=None):
        self.words = words
        self.log = log
        with open(log, "wb") as output:
            # A session of its own: what the terminal sends us reaches it only through us, in order.
            self.child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={"PATH": os.environ["PATH"], **(environment or {})},
                preexec_fn=lambda: os.sched_setaffinity(0, cores))
        self.pid = self.child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.child.poll() is None:
                self.child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(5)
                return
            say(f"{self.words[0]} did not end when asked; killing it")

    def seconds(self):
        return processor_seconds(self.pid)

    def check_alive(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.words[0]} ended: {self.said()[-500:]}")

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def finish(self, seconds):
        """Waits for a command that ends by itself, and gives what it said."""
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.words[0]} took more than {seconds} s") from None
        if self.child.returncode:
            raise Failed(f"{self.words[0]} failed: {self.said()[-500:]}")
        return self.said()

    def until_it_listens(self, port):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.check_alive()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise Failed(f"{self.words[0]} does not listen: {self.said()[-500:]}")


def free_ports():
    """Below the ports that the system gives to clients; each only once, so that no two of ours meet."""
    for port in range(20000 + os.getpid() % 4000, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise Failed("no port is free")


def redis_total(port):
    """What Redis says it has counted."""
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(b"*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n")
        lines = peer.makefile("rb")
        return 0 if lines.readline() == b"$-1\r\n" else int(lines.readline())
