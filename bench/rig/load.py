"""The load: wrk or redis-benchmark on its own core, and the check that the count equals the responses."""

import csv
import dataclasses
import io
import re
import time

from rig.processes import Failed, Process, core_seconds, log_line

# `done` prints exact figures, which the summary of wrk rounds; `PIPELINE` is the number of requests in each write.
SCRIPT = """
init = function()
    local all = {}
    for index = 1, PIPELINE do all[index] = wrk.format(nil, wrk.path) end
    written = table.concat(all)
end
request = function() return written end
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("report %d %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclasses.dataclass
class Run:
    """The result of one run of load: processor seconds are per 100,000 successful responses, `trouble` counts error
    responses and broken sockets, `foreign` is the share of the core that other processes took."""

    rate: float
    p99: float
    server: float
    store: float
    foreign: float
    answered: int
    counted: int
    trouble: int
    wrong: bool

    @property
    def cost(self):
        return self.server + self.store


def settled_total(running):
    """Waits until the total is constant, so that it includes visits of connections that were just closed."""
    total = running.total()
    for _ in range(100):
        time.sleep(0.03)
        again = running.total()
        if again == total:
            return total
        total = again
    raise Failed(f"{running.subject.label} counts without requests")


def wrk(running, connections, depth, seconds):
    """Returns responses, seconds, p50 and p99 in ms, error responses, broken sockets."""
    testbed = running.testbed
    script = testbed.folder / f"wrk-{depth}.lua"
    script.write_text(SCRIPT.replace("PIPELINE", str(depth)))
    url = f"http://{running.host}:{running.port}{running.subject.path}"
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(script), url]
    with Process(command, {testbed.load_core}, testbed.log()) as process:
        output = process.finish(seconds + 30)
    report = re.search(r"^report (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", output, re.MULTILINE)
    if not report:
        raise Failed(f"no report of wrk for {running.subject.label}: {output[-300:]}")
    answered, microseconds, p50, p99, refused, broken = map(int, report.groups())
    return answered, microseconds / 1e6, p50 / 1000, p99 / 1000, refused, broken


def socket_load(running, connections, seconds):
    """The same without p50 with bench/limit/load, which also connects to a Unix socket; wrk does not."""
    testbed = running.testbed
    request = f"GET {running.subject.path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    command = [testbed.builder.folder / "load", running.address, connections, seconds, request]
    with Process([str(part) for part in command], {testbed.load_core}, testbed.log()) as process:
        report = re.search(r"^report (\d+) (\d+) (\d+) (\d+) (\d+)$", process.finish(seconds + 30), re.MULTILINE)
    if not report:
        raise Failed(f"no report of the load for {running.subject.label}")
    answered, microseconds, p99, refused, broken = map(int, report.groups())
    return answered, microseconds / 1e6, p99 / 1000, refused, broken


def redis_benchmark(running, connections, seconds):
    """The same with redis-benchmark, which takes a number of requests instead of a duration."""
    testbed = running.testbed
    depth = int(running.subject.variant.rpartition("-")[2])
    # About as many as take that long on one core.
    requests = int(seconds * 50_000 * min(depth, 8))
    command = [*testbed.builder.commands[running.subject.name], "-p", str(running.store_port), "-c", str(connections),
             "-n", str(requests), "--csv", "INCR", "visits"]
    with Process(command, {testbed.load_core}, testbed.log()) as process:
        output = process.finish(seconds * 20 + 30)
    rows = list(csv.DictReader(io.StringIO(output[output.index('"test"'):])))
    rate = float(rows[0]["rps"])
    return requests, requests / rate, float(rows[0]["p99_latency_ms"]), 0, 0


def apply_load(running, connections, depth, seconds):
    """Loads a running subject, and checks its count."""
    testbed, subject = running.testbed, running.subject
    processes = {name: process for name, process in (("server", running.server), ("store", running.store)) if process}
    before = settled_total(running)
    used = {name: -process.seconds() for name, process in processes.items()}
    core = -core_seconds(testbed.server_core)
    if subject.kind == "tool":
        answered, lasted, p99, refused, broken = redis_benchmark(running, connections, seconds)
    elif subject.unix:
        answered, lasted, p99, refused, broken = socket_load(running, connections, seconds)
    else:
        answered, lasted, _, p99, refused, broken = wrk(running, connections, depth, seconds)
    core += core_seconds(testbed.server_core)
    running.check_running()
    for name, process in processes.items():
        used[name] += process.seconds()
    if answered == refused:
        raise Failed(f"{subject.label} returned only errors")
    counted = settled_total(running) - before

    # wrk closes its connections at the end, while the last write of each may be in flight: counted, not answered. The
    # same holds for a broken socket, and for an error that leaves the visit in doubt.
    least, most = answered - refused, answered + (connections + broken) * depth
    if subject.kind == "tool":
        most = answered
    if not running.counts:
        least = most = 0
    wrong = not least <= counted <= most
    if wrong:
        log_line(f"WRONG COUNT: {subject.label}: answered {answered - refused}, counted {counted}, "
            f"expected {least} to {most}")
    if refused + broken:
        log_line(f"{subject.label}: {refused} error responses, {broken} broken sockets")
    good = answered - refused
    return Run(rate=good / lasted, p99=p99, server=used.get("server", 0) / good * 1e5,
               store=used.get("store", 0) / good * 1e5, foreign=max(0, core - sum(used.values())) / lasted,
               answered=good, counted=counted, trouble=refused + broken, wrong=wrong)
