"""The load: wrk or redis-benchmark on a core of its own, and whether what was answered is what was counted."""

import csv
import dataclasses
import io
import re
import time

from rig.processes import Failed, Process, core_seconds, say

# `done` prints what the summary for people rounds; `PIPELINE` is a whole number of requests in each write.
SCRIPT = """
init = function()
    local all = {}
    for place = 1, PIPELINE do all[place] = wrk.format(nil, wrk.path) end
    written = table.concat(all)
end
request = function() return written end
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("report %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(99),
        e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclasses.dataclass
class Run:
    """What one run of load showed: processor seconds are for 100,000 good answers, `trouble` are error answers
    and broken sockets, `foreign` is a share of the core."""

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


def settled(running):
    """Twice the same total, so that the visits of connections just cut off are in."""
    total = running.total()
    for _ in range(100):
        time.sleep(0.03)
        again = running.total()
        if again == total:
            return total
        total = again
    raise Failed(f"{running.contender.label} goes on counting although nobody asks")


def wrk(running, connections, depth, seconds):
    """Answered, seconds, p99 in ms, error answers, broken sockets."""
    arena = running.arena
    script = arena.folder / f"wrk-{depth}.lua"
    script.write_text(SCRIPT.replace("PIPELINE", str(depth)))
    url = f"http://127.0.0.1:{running.port}{running.contender.path}"
    words = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(script), url]
    with Process(words, {arena.load_core}, arena.log()) as process:
        said = process.finish(seconds + 30)
    report = re.search(r"^report (\d+) (\d+) (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    if not report:
        raise Failed(f"wrk said nothing of {running.contender.label}: {said[-300:]}")
    answered, microseconds, p99, refused, broken = map(int, report.groups())
    return answered, microseconds / 1e6, p99 / 1000, refused, broken


def redis_benchmark(running, connections, seconds):
    """The same out of Redis's own tool, which wants to be told how many instead of how long."""
    arena = running.arena
    depth = int(running.contender.what.rpartition("-")[2])
    # As many as take about that long at the usual speed of one core.
    asked = int(seconds * 50_000 * min(depth, 8))
    words = [*arena.workshop.commands[running.contender.name], "-p", str(running.store_port), "-c", str(connections),
             "-n", str(asked), "--csv", "INCR", "visits"]
    with Process(words, {arena.load_core}, arena.log()) as process:
        said = process.finish(seconds * 20 + 30)
    rows = list(csv.DictReader(io.StringIO(said[said.index('"test"'):])))
    rate = float(rows[0]["rps"])
    return asked, asked / rate, float(rows[0]["p99_latency_ms"]), 0, 0


def put(running, connections, depth, seconds):
    """Loads what runs, and judges its count."""
    arena, contender = running.arena, running.contender
    processes = {name: process for name, process in (("server", running.server), ("store", running.store)) if process}
    before = settled(running)
    used = {name: -process.seconds() for name, process in processes.items()}
    core = -core_seconds(arena.server_core)
    if contender.kind == "tool":
        answered, lasted, p99, refused, broken = redis_benchmark(running, connections, seconds)
    else:
        answered, lasted, p99, refused, broken = wrk(running, connections, depth, seconds)
    core += core_seconds(arena.server_core)
    running.check_alive()
    for name, process in processes.items():
        used[name] += process.seconds()
    if answered == refused:
        raise Failed(f"{contender.label} answered nothing but errors")
    counted = settled(running) - before

    # wrk cuts its connections off at the end, and each may have had what it wrote last under way: counted, not
    # answered. The same holds for a socket that broke, and for an error that leaves the visit in doubt.
    least, most = answered - refused, answered + (connections + broken) * depth
    if contender.kind == "tool":
        most = answered
    if not running.counts:
        least = most = 0
    wrong = not least <= counted <= most
    if wrong:
        say(f"WRONG COUNT: {contender.label}: answered {answered - refused}, counted {counted}, "
            f"should be {least} to {most}")
    if refused + broken:
        say(f"{contender.label}: {refused} error answers, {broken} broken sockets")
    good = answered - refused
    return Run(rate=good / lasted, p99=p99, server=used.get("server", 0) / good * 1e5,
               store=used.get("store", 0) / good * 1e5, foreign=max(0, core - sum(used.values())) / lasted,
               answered=good, counted=counted, trouble=refused + broken, wrong=wrong)
