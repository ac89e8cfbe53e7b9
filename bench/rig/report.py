"""Medians, ratios within a round, the tables, and the targets that are met."""

import dataclasses
import statistics

from rig.subjects import TITLES, Subject

BASELINE = "limit/combine"


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a table: the subject, the number of connections, and the number of requests in each write."""

    subject: object
    connections: int
    depth: int = 1


class Results:
    """Runs by scenario and case; a case has at most one in a round."""

    def __init__(self):
        self.runs = {}

    def add(self, scenario, case, round_number, result):
        self.runs.setdefault(scenario, {}).setdefault(case, {})[round_number] = result

    def cases(self, scenario):
        return list(self.runs.get(scenario, {}))

    def every(self):
        return [run for cases in self.runs.values() for rounds in cases.values() for run in rounds.values()]

    def find(self, scenario, name, connections, **marks):
        """The case of a subject, or None if it was not measured."""
        for case in self.cases(scenario):
            expected = {"name": name, **marks}
            if case.connections == connections and \
                    all(getattr(case.subject, mark) == value for mark, value in expected.items()):
                return case
        return None

    def median(self, scenario, case, figure):
        return statistics.median(getattr(run, figure) for run in self.runs[scenario][case].values())

    def ratio(self, scenario, case, base, figure="rate"):
        """Returns the median of the ratios within each round, because other load affects a round rather than a row."""
        case_runs, base_runs = self.runs[scenario].get(case), self.runs[scenario].get(base)
        if not case_runs or not base_runs:
            return None
        pairs = [(getattr(case_runs[number], figure), getattr(base_runs[number], figure))
                 for number in case_runs if number in base_runs]
        ratios = [value / base for value, base in pairs if base]
        return statistics.median(ratios) if ratios else None


# What a row is compared with if not with the baseline: the title of the column, and the field of the subject that
# differs.
BASES = {
    "paths": ("of `/livez`", {"path": "/livez"}),
    "workers": ("of one worker", {"workers": 1}),
    "idle": ("of none idle", {"idle": 0}),
    "unix": ("of TCP", {"unix": "none"}),
}


def base_of(results, scenario, case):
    if scenario in BASES:
        reference = dataclasses.replace(case.subject, **BASES[scenario][1])
    else:
        reference = Subject(BASELINE, distance=case.subject.distance)
    return dataclasses.replace(case, subject=reference)


def number(value, form):
    return "" if value is None else format(value, form)


def table(results, scenario):
    against = BASES.get(scenario, ("of the baseline",))[0]
    lines = [f"| connections | | requests/s | {against} | CPU s per 100,000: server | Redis | {against} "
             "| p99 ms | answered | counted |", "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    cases = results.cases(scenario)
    for case in sorted(cases, key=lambda case: (case.depth, case.connections)):
        base = base_of(results, scenario, case)
        runs = results.runs[scenario][case].values()
        rate, p99, server, store = (results.median(scenario, case, name) for name in ("rate", "p99", "server", "store"))
        has_server, has_store = case.subject.kind != "tool", case.subject.store.startswith("redis")
        cells = [
            str(case.connections), case.subject.label, f"{rate:,.0f}",
            number(results.ratio(scenario, case, base), ".2f"),
            f"{server:.2f}" if has_server else "", f"{store:.2f}" if has_store else "",
            number(results.ratio(scenario, case, base, "cost"), ".2f"),
            # wrk measures a write, not the requests in it.
            f"{p99:.2f}" if case.depth == 1 else "",
            f"{sum(run.answered for run in runs):,}", f"{sum(run.counted for run in runs):,}"]
        lines.append("| " + " | ".join(cells) + " |")
    for case in cases:
        trouble = sum(run.trouble for run in results.runs[scenario][case].values())
        if trouble:
            lines.append(f"\n{case.subject.label}, {case.connections} connections: {trouble:,} error responses and "
                         "broken sockets, which are not in its rate.")
    return "\n".join(lines)


def against_best(results, notch, peers, connections):
    """Returns the ratio of the rate to that of the best peer, and the label of that peer."""
    ours = results.find("main", notch, connections, store="redis/everysec")
    theirs = [case for case in results.cases("main")
              if case.subject.name in peers and case.connections == connections]
    if not ours or not theirs:
        return None, ""
    best = max(theirs, key=lambda case: results.median("main", case, "rate"))
    return results.ratio("main", ours, best), best.subject.label


def check_targets(results, peers):
    """Returns the targets of notch: title, sign, bound, figure. A figure of None was not measured."""
    found = []

    def add_target(title, sign, bound, figure):
        found.append((title, sign, bound, figure))

    def compare(scenario, ours, theirs, figure="rate"):
        return results.ratio(scenario, ours, theirs, figure) if ours and theirs else None

    for count in (8, 64, 512):
        ours = results.find("main", "notch/tokio", count, store="redis/everysec")
        base = results.find("main", BASELINE, count)
        add_target(f"rate of the baseline, {count} connections", ">=", 0.95, compare("main", ours, base))
        cost = compare("main", ours, base, "cost")
        add_target(f"CPU per visit of the baseline, {count} connections", "<=", 1.15, cost)
    for count, bound in ((8, 1.0), (64, 1.3), (512, 1.5)):
        ratio, best = against_best(results, "notch/tokio", peers, count)
        add_target(f"rate of the best peer, {count} connections" + (f" ({best})" if best else ""), ">=", bound, ratio)
    for count in (8, 64, 512):
        ours = results.find("main", "notch/tokio", count, store="redis/everysec")
        theirs = [results.median("main", case, "p99") for case in results.cases("main")
                  if case.subject.name in peers and case.connections == count]
        figure = results.median("main", ours, "p99") / min(theirs) if ours and theirs else None
        add_target(f"p99 of the best peer's, {count} connections", "<", 1.0, figure)
    add_target("pipelined by 16, rate of the baseline, 64 connections", ">=", 0.7, compare(
        "pipelined", results.find("pipelined", "notch/tokio", 64, store="redis/everysec"),
        results.find("pipelined", BASELINE, 64)))
    for distance in (1000, 200):
        add_target(f"Redis at {distance / 1000:g} ms, rate of the baseline, 64 connections", ">=", 0.95, compare(
            "far", results.find("far", "notch/tokio", 64, distance=distance),
            results.find("far", BASELINE, 64, distance=distance)))
    add_target("`appendfsync always`, rate of `everysec`, 512 connections", ">=", 0.8, compare(
        "fsync", results.find("fsync", "notch/tokio", 512, store="redis/always"),
        results.find("fsync", "notch/tokio", 512, store="redis/everysec")))
    for count, name, load in (
            (64, "tool/redis-benchmark-1", "one INCR for each visit on its own"),
            (512, "tool/redis-benchmark-1", "one INCR for each visit on its own"),
            (64, "limit/each", "one INCR for each visit down one connection")):
        add_target(f"Redis's CPU per visit of that for {load}, {count} connections", "<=", 0.1, compare(
            "main", results.find("main", "notch/tokio", count, store="redis/everysec"),
            results.find("main", name, count), "store"))
    with_idle = [case for case in results.cases("idle") if case.subject.name == "notch/tokio"
                  and case.subject.idle]
    add_target("10,000 idle connections, rate of 64 connections without them", ">=", 0.9, compare(
        "idle", with_idle[0] if with_idle else None, results.find("idle", "notch/tokio", 64, idle=0)))
    add_target("CPU per visit of two workers on two cores, of one on one, 64 connections", "<=", 1.15, compare(
        "workers", results.find("workers", "notch/tokio", 64, workers=2),
        results.find("workers", "notch/tokio", 64, workers=1), "cost"))
    for name in ("stack/haproxy", "stack/nginx"):
        ours, theirs = (results.find("stack", one, 64, store="redis/always", forwarded=False)
                        for one in (name, "stack/flask"))
        for title, figure, bound in (("CPU per visit", "cost", 1 / 15), ("memory", "size", 0.1), ("p99", "p99", 1.0)):
            add_target(f"{title} of {TITLES[name]}, of the classic stack", "<=", bound,
                       compare("stack", ours, theirs, figure))
    for name in ("peer/flask", "peer/node", "peer/go", "peer/nginx-lua"):
        ours = results.find("main", "notch/threads", 64, store="redis/everysec")
        theirs = results.find("main", name, 64)
        label = theirs.subject.label if theirs else name
        add_target(f"threads, rate of {label}, 64 connections", ">", 1.0, compare("main", ours, theirs))
    return found


def meets_target(sign, bound, figure):
    return {">=": figure >= bound, "<=": figure <= bound, ">": figure > bound, "<": figure < bound}[sign]


def verdicts(found):
    lines = ["| target | expected | measured | met |", "|---|--:|--:|---|"]
    for title, sign, bound, figure in found:
        if figure is not None:
            met = "yes" if meets_target(sign, bound, figure) else "**no**"
            lines.append(f"| {title} | {sign} {bound:g} | {figure:.3f} | {met} |")
    return "\n".join(lines) if len(lines) > 2 else ""
