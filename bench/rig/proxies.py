"""Settings of the two balancers, one by one: the system calls of the balancer for each visit, counted by strace. Most
of its processor time is theirs, and their number hardly depends on other load of the machine. The stacks are plain
processes: see `rig.plain`."""

import dataclasses
import os
import re
import signal
import time

from rig import load
from rig.plain import PlainStack, edited, notch_application
from rig.processes import Failed, log_line, process_tree

CONNECTIONS = 32
DEFAULTS = "defaults\n    mode http\n"
GLOBAL = "global\n    maxconn 2000\n"
KEPT = "        keepalive 64;\n"
IDLE = "    keepalive_timeout 10s;\n"
# Which part of the configuration is replaced by what.
VARIANTS = {
    "haproxy": {
        "HAProxy, as shipped": {},
        "`http-reuse never`": {DEFAULTS: DEFAULTS + "    http-reuse never\n"},
        "`http-reuse always`": {DEFAULTS: DEFAULTS + "    http-reuse always\n"},
        "`option http-no-delay`": {DEFAULTS: DEFAULTS + "    option http-no-delay\n"},
        "`option splice-auto`": {DEFAULTS: DEFAULTS + "    option splice-auto\n"},
        "`nbthread 2`": {GLOBAL: GLOBAL + "    nbthread 2\n"},
        "`tune.bufsize 8192`": {GLOBAL: GLOBAL + "    tune.bufsize 8192\n"},
        "checks every 2 s, not 0.4 s": {"default-server check inter 400ms": "default-server check inter 2s"},
        "no log of errors": {"    log stdout format raw local0 err\n": ""},
        "a log line for each visit": {"    option dontlog-normal\n": "", " local0 err\n": " local0 info\n"},
        "without `wait-for-body`": {"    http-request wait-for-body time 5s\n": ""},
        "rules for errors also for responses": {"    http-after-response allow if from_replica\n": ""},
    },
    "nginx": {
        "nginx, as shipped": {},
        "no connections kept to replicas": {KEPT: "", "        keepalive 16;\n": "",
                                            "        keepalive_timeout 5s;\n": "",
                                            '        proxy_set_header Connection "";\n': ""},
        "`keepalive 256`": {KEPT: KEPT.replace("64", "256")},
        "`keepalive_requests 100000`": {KEPT: KEPT + "        keepalive_requests 100000;\n",
                                        IDLE: IDLE + "    keepalive_requests 100000;\n"},
        "`proxy_buffering off`": {IDLE: IDLE + "    proxy_buffering off;\n"},
        "`multi_accept on`": {"worker_connections 2048;\n": "worker_connections 2048;\n    multi_accept on;\n"},
    },
}
STRACE = ["strace", "-f", "-c", "-qq", "-U", "calls,name", "-o", "{}"]
CALLS = ("recvfrom", "sendto", "writev", "epoll_wait", "connect")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What `load.wrk` needs to know."""

    label: str
    path: str = "/count"


class WatchedStack(PlainStack):
    """A stack with a changed configuration, whose balancer runs under a tool."""

    def __init__(self, testbed, kind, application, variant):
        super().__init__(testbed, kind, application)
        self.subject = Traffic(variant)
        self.changes = VARIANTS[kind][variant]
        self.tool = [word.format(self.home / "tool") for word in STRACE]

    def launch(self, command, environment=None):
        path = self.home / f"{self.kind}.c{'fg' if self.kind == 'haproxy' else 'onf'}"
        if str(command[0]) in ("haproxy", "sh"):
            text = edited(path.read_text(), self.changes)
            # One worker, as on one core.
            path.write_text(text.replace("worker_processes auto;", "worker_processes 1;"))
            command = [*self.tool, *command]
        return super().launch(command, environment)

    def stop_balancer(self):
        """Ends the balancer, so that the tool writes its figures."""
        os.kill(process_tree(self.balancer.pid)[1], signal.SIGTERM)
        for _ in range(200):
            if self.balancer.child.poll() is not None:
                return
            time.sleep(0.05)
        raise Failed(f"{self.subject.label}: the balancer does not end")


def watched(testbed, application, kind, variant, seconds):
    """Returns the counted visits of a run, and what the tool wrote."""
    testbed.log()
    with WatchedStack(testbed, kind, application, variant) as running:
        # Until the checks of all replicas have passed.
        time.sleep(2)
        load.wrk(running, CONNECTIONS, 1, seconds)
        counted = int(running.redis("GET", "visits") or 0)
        running.stop_balancer()
        texts = [path.read_text(errors="replace") for path in running.home.glob("tool*")]
    return counted, texts


def system_calls(*arguments):
    """Returns the counted visits of a run, and its system calls by name."""
    counted, texts = watched(*arguments)
    return counted, {name: int(calls) for text in texts
                     for calls, name in re.findall(r"^ *(\d+) +([a-z_0-9]+)$", text, re.MULTILINE) if name != "total"}


def measure(testbed, binary, seconds):
    """Yields the lines of a table with all variants."""
    application = notch_application(testbed.root, binary)
    yield f"| setting | {' | '.join(CALLS)} | others | all |"
    yield "|---" + "|--:" * (2 + len(CALLS)) + "|"
    for kind, variants in VARIANTS.items():
        for variant in variants:
            # The difference of a long and a short run is free of the start and the end.
            (few, little), (many, much) = (system_calls(testbed, application, kind, variant, times * seconds)
                                           for times in (1, 3))
            calls = {name: max(0, count - little.get(name, 0)) / (many - few) for name, count in much.items()}
            named, total = [calls.get(name, 0) for name in CALLS], sum(calls.values())
            log_line(f"proxies: {variant}: {total:.2f} system calls for each visit")
            cells = [f"{value:.2f}" for value in (*named, max(0, total - sum(named)), total)]
            yield f"| {variant} | {' | '.join(cells)} |"
