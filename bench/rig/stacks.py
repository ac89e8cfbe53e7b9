"""Whole stacks side by side: balancer, three replicas and Redis, as containers where an engine runs, otherwise as plain
processes. Their speed, cost and memory under load, and what becomes of visits while replicas come, go and die."""

import contextlib
import dataclasses
import statistics
import time

from rig import load
from rig.containers import COMPONENTS, ComposeStack, engine_runs
from rig.plain import PlainStack, notch_application, python_application
from rig.processes import Failed, core_seconds, log_line
from rig.visitors import Visitors

OURS = ("stack/haproxy", "stack/nginx")
# Between two changes of the stack.
INTERVAL = 2
BASELINE = "stack/flask"


@dataclasses.dataclass
class Run:
    """The result of one run of load. Processor seconds are per 100,000 successful responses, by component; memory is
    that after the load, in bytes, by component."""

    rate: float
    p50: float
    p99: float
    seconds: dict
    memory: dict
    foreign: float
    answered: int
    counted: int
    trouble: int
    wrong: bool

    @property
    def cost(self):
        return sum(self.seconds.values())

    @property
    def size(self):
        return sum(self.memory.values())


class Stacks:
    """The running stacks of the selected subjects, and what was measured."""

    def __init__(self, testbed, subjects, kills):
        self.testbed = testbed
        self.kills = kills
        self.subjects = subjects
        self.is_contained = engine_runs()
        self.running = {}
        self.sizes = {}
        # Audits by change of the stack and name.
        self.audits = {}

    def start(self, stack):
        """Starts each stack once; they stop when `stack` is closed."""
        if not self.is_contained:
            log_line("stack: Docker and Compose do not respond: plain processes with the same configuration, without "
                     "published ports and images")
        builder = self.testbed.builder
        for name in dict.fromkeys(subject.name for subject in self.subjects):
            if not builder.build(name):
                continue
            log_line(f"starting {name}")
            variant = name.split("/")[1]
            try:
                self.running[name] = stack.enter_context(
                    self.contained(variant) if self.is_contained else self.plain(variant))
            except Failed as failure:
                if name in OURS:
                    raise
                builder.not_available[name] = str(failure)
                log_line(f"LEFT OUT: {name}: {failure}")
                continue
            self.sizes[name] = self.running[name].sizes()
        self.subjects = [subject for subject in self.subjects if subject.name in self.running
                         and (self.is_contained or not subject.forwarded)]

    def contained(self, variant):
        root = self.testbed.root
        if variant == "haproxy":
            return ComposeStack(self.testbed, variant, [root / "compose.yaml"], "proxy", 8080)
        if variant == "nginx":
            return ComposeStack(self.testbed, variant, [root / "compose.yaml", root / "compose.nginx.yaml"], "proxy",
                                8080)
        return ComposeStack(self.testbed, variant, [root / "bench/stacks/compose.yaml"], "nginx", 80, APP=variant)

    def plain(self, variant):
        found = self.testbed.builder.commands[f"stack/{variant}"][0]
        if variant in ("haproxy", "nginx"):
            return PlainStack(self.testbed, variant, notch_application(self.testbed.root, found))
        return PlainStack(self.testbed, "classic", python_application(self.testbed.root, found, variant))

    def load(self, subject, connections, seconds):
        """Loads one stack, and checks its count."""
        return apply_load(Loaded(self.testbed, subject, self.running[subject.name]), connections, seconds)

    def change(self, kind, name):
        """Applies a change of the stack under load, and keeps the audit of it."""
        running = self.running[name]
        log_line(f"stack: {name}: {kind}")
        with Visitors(running) as visitors:
            time.sleep(INTERVAL)
            CHANGES[kind](running, self.kills)
            time.sleep(INTERVAL)
        audit = visitors.audit()
        self.audits.setdefault(kind, {}).setdefault(name, []).append(audit)
        log_line(f"stack: {name}: {kind}: {audit}")

    @property
    def wrong(self):
        """Returns the changes in which a stack of notch lost, repeated or doubled a visit; or failed one although the
        change was planned, which may happen with nginx."""
        return [f"{name}: {kind}" for kind, audits in self.audits.items() for name in OURS
                for audit in audits.get(name, []) if audit.lost or audit.repeated or audit.doubled
                or not audit.answered or audit.failed and kind == PLANNED and name == "stack/haproxy"]


class Loaded:
    """A stack as the load sees it: an address, and a total."""

    def __init__(self, testbed, subject, running):
        self.testbed = testbed
        self.subject = subject
        self.running = running
        self.host = "127.0.0.1" if subject.forwarded else running.host
        self.port = running.loopback_port if subject.forwarded else running.port

    def total(self):
        return int(self.running.redis("GET", "visits") or 0)


def apply_load(loaded, connections, seconds):
    """Loads a stack with wrk, and checks that it counted the visits that it answered."""
    testbed, subject, running = loaded.testbed, loaded.subject, loaded.running
    running.redis("CONFIG", "SET", "appendfsync", subject.store.split("/")[1])
    before = load.settled_total(loaded)
    used, core = running.seconds(), core_seconds(testbed.server_core)
    answered, lasted, p50, p99, refused, broken = load.wrk(loaded, connections, 1, seconds)
    core = core_seconds(testbed.server_core) - core
    used = {name: after - used[name] for name, after in running.seconds().items()}
    memory = running.memory()
    running.check_running()
    good = answered - refused
    if not good:
        raise Failed(f"{subject.label} returned only errors")
    counted = load.settled_total(loaded) - before
    # As in `load.apply_load`: the last visit of each connection may be counted without a response.
    wrong = not good <= counted <= answered + connections + broken
    if wrong:
        log_line(f"WRONG COUNT: {subject.label}: answered {good}, counted {counted}")
    return Run(rate=good / lasted, p50=p50, p99=p99, memory=memory, answered=good, counted=counted,
               seconds={name: value / good * 1e5 for name, value in used.items()},
               foreign=max(0, core - sum(used.values())) / lasted, trouble=refused + broken, wrong=wrong)


def scale_up_and_down(running, _):
    for size in (5, 3):
        running.scale(size)
        time.sleep(INTERVAL)


def kill_replicas(running, kills):
    """Kills a replica this many times, and starts it again each time."""
    for _ in range(kills):
        restart = running.kill_replica()
        time.sleep(INTERVAL / 2)
        restart()
        time.sleep(INTERVAL)


PLANNED = "3 → 5 → 3 replicas"
CHANGES = {
    PLANNED: scale_up_and_down,
    "`kill -9` of a replica": kill_replicas,
}


def tables(results, stacks):
    """All tables of the report."""
    return "\n\n".join((table(results, stacks), memory_table(results, stacks), audit_table(stacks)))


def megabytes(size):
    return f"{size / 1e6:.1f}" if size < 1e8 else f"{size / 1e6:.0f}"


def table(results, stacks):
    """Speed, cost and memory; ratios are taken within a round, to the classic stack with Flask of the same `fsync`."""
    components = [name for name in COMPONENTS if stacks.is_contained or name != "docker-proxy"]
    lines = [f"| stack | visits/s | of Flask's | CPU s per 100,000: {' | '.join(components)} | all | visits per CPU "
             "second, of Flask's | p50 ms | p99 ms | memory MB | of Flask's |",
             "|---" + "|--:" * (len(components) + 8) + "|"]
    for case in results.cases("stack"):
        runs = results.runs["stack"][case].values()
        median = lambda figure: statistics.median(figure(one) for one in runs)
        base = dataclasses.replace(case, subject=dataclasses.replace(case.subject, name=BASELINE))
        ratios = [results.ratio("stack", case, base, figure) for figure in ("rate", "cost", "size")]
        rate, cost, size = ratios
        cells = [case.subject.label, f"{median(lambda one: one.rate):,.0f}", number(rate),
                 *(f"{median(lambda one, name=name: one.seconds.get(name, 0)):.2f}" for name in components),
                 f"{median(lambda one: one.cost):.2f}", number(1 / cost if cost else None),
                 f"{median(lambda one: one.p50):.1f}", f"{median(lambda one: one.p99):.1f}",
                 megabytes(median(lambda one: one.size)), number(size)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(ratio):
    if ratio is None:
        return ""
    return f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def memory_table(results, stacks):
    lines = ["| stack | memory MB: balancer | web, 3 replicas | Redis | docker-proxy | images MB: balancer | web "
             "| Redis |", "|---" + "|--:" * 7 + "|"]
    for name in stacks.running:
        case = next((case for case in results.cases("stack") if case.subject.name == name), None)
        if not case:
            continue
        runs = results.runs["stack"][case].values()
        used = [megabytes(statistics.median(one.memory.get(component, 0) for one in runs)) for component in COMPONENTS]
        images = [megabytes(stacks.sizes[name].get(component, 0)) if stacks.sizes[name] else ""
                  for component in COMPONENTS[:3]]
        lines.append(f"| {case.subject.label} | {' | '.join(used + images)} |")
    return "\n".join(lines)


def audit_table(stacks):
    lines = ["| change, under load | stack | answered | failed | counted twice, at least | numbers given twice "
             "| answered but lost | slowest s |", "|---|---|--:|--:|--:|--:|--:|--:|"]
    for kind, by_name in stacks.audits.items():
        for name, audits in by_name.items():
            label = next(subject.label for subject in stacks.subjects if subject.name == name).split(", `")[0]
            failures = {}
            for audit in audits:
                for outcome, count in audit.failures.items():
                    failures[outcome] = failures.get(outcome, 0) + count
            failed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(failures.items()))
            sums = [sum(getattr(audit, figure) for audit in audits)
                    for figure in ("answered", "failed", "doubled", "repeated", "lost")]
            sums[1] = f"{sums[1]} ({failed})" if failed else "0"
            cells = [f"{value:,}" if isinstance(value, int) else value for value in sums]
            times = len(audits) * (1 if kind == PLANNED else stacks.kills)
            slowest = max(audit.slowest for audit in audits)
            lines.append(f"| {kind}, {times} times | {label} | {' | '.join(cells)} | {slowest:.1f} |")
    return "\n".join(lines)


@contextlib.contextmanager
def started(testbed, subjects, kills):
    """Starts all stacks, and removes them at the end of the block."""
    with contextlib.ExitStack() as stack:
        stacks = Stacks(testbed, subjects, kills)
        stacks.start(stack)
        yield stacks
