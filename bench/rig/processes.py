"""Child processes: pinned to cores, measured through /proc, waited for with timeouts, stopped at the end of a block."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

HERTZ = os.sysconf("SC_CLK_TCK")
TIMEOUT = 20


class Failed(Exception):
    """A step of the benchmark failed."""


def log_line(message):
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr, flush=True)


def fields(pid):
    """Returns the fields of /proc/PID/stat after the name, which may contain any characters."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def process_tree(pid):
    """Returns a process and its descendants: a server may have workers."""
    parents = {int(name): fields(name)[1:2] for name in os.listdir("/proc") if name.isdigit()}
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == [str(member)]]
    return found


def processor_seconds(pid):
    return sum(int(used) for member in process_tree(pid) for used in fields(member)[11:13]) / HERTZ


def core_seconds(core):
    """Returns the seconds that a core was busy, or stolen by the host."""
    with open("/proc/stat", encoding="ascii") as lines:
        ticks = next(line.split()[1:] for line in lines if line.startswith(f"cpu{core} "))
    return sum(int(ticks[index]) for index in (0, 1, 2, 5, 6, 7)) / HERTZ


class Process:
    """A command that runs on the given cores, with its output in a file."""

    def __init__(self, command, cores, log, environment=None):
        self.command = command
        self.log = log
        with open(log, "wb") as output:
            # Its own session, so that signals of the terminal do not reach it: this script stops it in order.
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
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
            log_line(f"{self.command[0]} ignores SIGTERM; killing it")

    def seconds(self):
        return processor_seconds(self.pid)

    def check_running(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.command[0]} ended: {self.output()[-500:]}")

    def output(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def finish(self, seconds):
        """Waits for the end of a command, and returns its output."""
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.command[0]} took more than {seconds} s") from None
        if self.child.returncode:
            raise Failed(f"{self.command[0]} failed: {self.output()[-500:]}")
        return self.output()

    def wait_until_listening(self, address):
        """Waits until a connection is accepted at a port of loopback, or at the path of a Unix socket."""
        is_port = isinstance(address, int)
        family, address = (socket.AF_INET, ("127.0.0.1", address)) if is_port else (socket.AF_UNIX, str(address))
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            self.check_running()
            with contextlib.suppress(OSError), socket.socket(family) as probe:
                probe.settimeout(1)
                probe.connect(address)
                return
            time.sleep(0.02)
        raise Failed(f"{self.command[0]} does not listen: {self.output()[-500:]}")


def free_ports():
    """Yields ports below the range of outgoing connections, each only once."""
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
    """Returns the total in Redis."""
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(b"*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n")
        lines = peer.makefile("rb")
        return 0 if lines.readline() == b"$-1\r\n" else int(lines.readline())
