"""The subjects of a benchmark: how each is built, and how it is started with its own store."""

import contextlib
import dataclasses
import os
import re
import shutil
import socket
import subprocess

from rig.containers import engine_runs
from rig.processes import TIMEOUT, Failed, Process, free_ports, log_line, redis_total

BUILD_SECONDS = 1200
LUA = ("/usr/lib/nginx/modules/ngx_http_lua_module.so", "/usr/share/lua/5.1/nginx/redis.lua")


class NotAvailable(Exception):
    """A subject cannot be built or installed on this machine."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One subject: `name` is KIND/VARIANT, as in notch/tokio; the other fields are its environment."""

    name: str
    store: str = "redis/everysec"
    path: str = "/count"
    distance: int = 0
    workers: int = 1
    idle: int = 0
    # Unix sockets in place of loopback TCP: "clients", "redis" or "clients redis"; "none" compares with them.
    unix: str = ""
    # A stack whose port is reached through the userland docker-proxy, which only connections from the same machine do.
    forwarded: bool = False

    @property
    def kind(self):
        return self.name.split("/")[0]

    @property
    def variant(self):
        return self.name.split("/")[1]

    @property
    def label(self):
        parts = [TITLES.get(self.name, self.name)]
        if self.kind == "notch":
            parts = [f"notch, {self.variant}"]
        if self.kind in ("notch", "limit") and self.store.startswith("ledger"):
            parts.append(f"ledger, `FSYNC={self.store.split('/')[1]}`")
        elif self.store not in ("redis/everysec", ""):
            parts.append(f"`appendfsync {self.store.split('/')[1]}`")
        if self.path not in ("/count", "/static", "/INCR/visits.txt"):
            parts.append(f"`{self.path}`")
        if self.distance:
            parts.append(f"Redis at {self.distance / 1000:g} ms")
        if self.forwarded:
            parts.append("through docker-proxy")
        if self.workers > 1:
            parts.append(f"{self.workers} workers on {self.workers} cores")
        if self.unix:
            parts.append(SOCKETS[self.unix])
        if self.idle:
            parts.append(f"{self.idle:,} more idle connections")
        return ", ".join(parts)


SOCKETS = {
    "none": "TCP, Redis on TCP",
    "clients": "Unix socket, Redis on TCP",
    "redis": "TCP, Redis on a Unix socket",
    "clients redis": "Unix socket, Redis on a Unix socket",
}

TITLES = {
    "limit/combine": "baseline: C, epoll, one INCRBY per round trip",
    "limit/once": "baseline, with notch's receipts",
    "limit/each": "baseline, one INCR per visit",
    "limit/static": "baseline, no Redis",
    "nginx/static": "nginx `return 200`, no Redis",
    "peer/axum": "axum + redis-rs",
    "peer/actix": "actix-web + redis-rs",
    "peer/ntex": "ntex + redis-rs",
    "peer/go": "Go net/http + redigo",
    "peer/node": "Node, fastify + ioredis",
    "peer/nginx-lua": "nginx + Lua",
    "peer/webdis": "webdis",
    "peer/fastapi": "FastAPI, uvicorn + redis-py",
    "peer/flask": "Flask + redis-py",
    "stack/haproxy": "notch, HAProxy",
    "stack/nginx": "notch, nginx",
    "stack/flask": "Flask on gunicorn, nginx",
    "stack/fastapi": "FastAPI on uvicorn, nginx",
    "tool/redis-benchmark-1": "redis-benchmark -P 1",
    "tool/redis-benchmark-16": "redis-benchmark -P 16",
}


def receipts(root):
    """Returns the script of notch from its source."""
    source = (root / "src/redis/receipt.rs").read_text()
    return source.partition('const SCRIPT: &[u8] = b"\\\n')[2].partition('";')[0]


PEERS = [name for name in TITLES if name.startswith("peer/")]


def run(command, log, folder=None, **environment):
    """Runs one step of a build."""
    with open(log, "ab") as output:
        try:
            result = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                  env={**os.environ, **environment}, timeout=BUILD_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise NotAvailable(str(failure)) from None
    if result.returncode:
        raise NotAvailable(f"{' '.join(command[:3])} failed: see {log}")


class Builder:
    """Builds each subject once, under `target/bench`, and has the command that starts it."""

    def __init__(self, root, options):
        self.root = root
        self.folder = root / "target/bench"
        self.options = options
        self.commands = {}
        self.not_available = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def build(self, name):
        """Returns whether `name` can be measured; if not, logs the reason once."""
        if name in self.not_available:
            return False
        if name not in self.commands:
            try:
                log_line(f"building {name}")
                self.commands[name] = getattr(self, "build_" + name.split("/")[0])(name.split("/")[1])
            except NotAvailable as reason:
                self.not_available[name] = str(reason)
                log_line(f"LEFT OUT: {name}: {reason}")
                return False
        return True

    def need(self, *commands):
        run(["scripts/lib/need", *commands], self.folder / "need.log", self.root)

    def build_notch(self, driver):
        self.compile("load")
        binary = self.options.binary
        if not binary:
            built = subprocess.run(["scripts/build", *["--stable"] * self.options.stable, "--driver", driver],
                                   cwd=self.root, stdout=subprocess.PIPE, check=False, text=True, timeout=BUILD_SECONDS)
            if built.returncode:
                raise Failed(f"notch does not build with driver {driver}")
            binary = self.root / built.stdout.strip()
        # A copy, so that another build does not change the measured binary.
        return [shutil.copy(binary, self.folder / f"notch-{driver}")]

    def build_limit(self, mode):
        self.compile("limit")
        self.compile("far")
        return [str(self.folder / "limit"), mode]

    def compile(self, name):
        source = self.root / f"bench/limit/{name}.c"
        run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(self.folder / name), str(source)], self.folder / "limit.log")

    def build_tool(self, name):
        self.need("redis-benchmark=redis-tools")
        return ["redis-benchmark", "-P", name.rpartition("-")[2]]

    def build_nginx(self, _):
        self.need("nginx=nginx-light,libnginx-mod-http-lua,lua-nginx-redis")
        missing = [file for file in LUA if not os.path.exists(file)]
        if missing:
            raise NotAvailable(f"{missing[0]} is missing: install libnginx-mod-http-lua and lua-nginx-redis")
        return ["nginx"]

    def build_stack(self, variant):
        """Compose builds the images; without an engine these are the programs."""
        if engine_runs():
            return []
        self.need("redis-server", "redis-cli=redis-tools", "haproxy=haproxy" if variant == "haproxy" else
                  "nginx=nginx-light")
        if variant in ("haproxy", "nginx"):
            self.build("notch/tokio")
            return self.commands["notch/tokio"]
        return [self.python_environment(f"stack-{variant}", self.root / "bench/stacks" / variant,
                                        self.folder / f"stack-{variant}.log")]

    def build_peer(self, name):
        sources = self.root / "bench/peers"
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        if name == "nginx-lua":
            return self.build_nginx(name)
        if name == "webdis":
            self.need("webdis")
            return ["webdis"]
        if name in ("axum", "actix", "ntex"):
            run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", name, "--target-dir",
                 str(self.folder / "rust")], log, sources / "rust")
            return [str(self.folder / "rust/release" / name)]
        if name == "go":
            self.need("go=golang-go,golang-github-gomodule-redigo-dev")
            run(["go", "build", "-o", str(self.folder / "go"), "."], log, sources / "go", GO111MODULE="off",
                GOPATH="/usr/share/gocode", GOCACHE=str(self.folder / "go-cache"))
            return [str(self.folder / "go")]
        if name == "node":
            self.need("node=nodejs", "npm")
            shutil.copytree(sources / "node", self.folder / "node", dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("node_modules"))
            run(["npm", "ci", "--no-audit", "--no-fund"], log, self.folder / "node")
            return ["node", str(self.folder / "node/server.js")]
        return self.build_python(name, sources / "python", log)

    def build_python(self, name, sources, log):
        return [str(self.python_environment("python", sources, log) / "bin/python"), str(sources / f"{name}_app.py")]

    def python_environment(self, name, sources, log):
        """Returns a folder with Python and the packages that the sources need."""
        home = self.folder / name
        run(["python3", "-m", "venv", str(home)], log)
        run([str(home / "bin/pip"), "install", "-q", "-r", str(sources / "requirements.txt")], log)
        return home


class Testbed:
    """The environment of subjects: processor cores, a temporary folder, and ports."""

    def __init__(self, root, builder, folder, server_core, load_core):
        self.root = root
        self.builder = builder
        self.folder = folder
        self.server_core = server_core
        self.load_core = load_core
        self.ports = free_ports()
        self.logs = 0

    def log(self):
        self.logs += 1
        return self.folder / f"{self.logs}.log"

    def start(self, subject, stack):
        """Starts `subject` and its store, which stop when `stack` is closed."""
        return Running(self, subject, stack)


class Running:
    """A running subject with its store."""

    host = "127.0.0.1"

    def __init__(self, testbed, subject, stack):
        self.testbed = testbed
        self.subject = subject
        self.home = testbed.folder / f"run-{testbed.logs}"
        self.home.mkdir()
        self.store = self.server = None
        self.store_port = self.port = 0
        # Two workers use both cores, one of them together with the load.
        self.cores = {testbed.server_core} if subject.workers == 1 else {testbed.server_core, testbed.load_core}
        if subject.store.startswith("redis/"):
            self.start_redis(stack, subject.store.split("/")[1])
        if subject.kind != "tool":
            self.start_server(stack)
        if subject.idle:
            self.open_idle_connections(stack, subject.idle)

    def start_redis(self, stack, durability):
        self.store_port = next(self.testbed.ports)
        self.store = stack.enter_context(Process(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.store_port), "--dir", str(self.home), "--save",
             "", "--appendonly", "yes", "--appendfsync", durability, "--auto-aof-rewrite-percentage", "0",
             "--maxclients", "20000", "--unixsocket", str(self.home / "redis.sock")],
            {self.testbed.server_core}, self.testbed.log()))
        self.store.wait_until_listening(self.store_port)

    def port_for_server(self, stack):
        """Returns the port of Redis for the server: with a distance, that of a relay on the core of the load."""
        if not self.subject.distance:
            return self.store_port
        port = next(self.testbed.ports)
        relay = stack.enter_context(Process(
            [str(self.testbed.builder.folder / "far"), str(self.subject.distance), str(port), str(self.store_port)],
            {self.testbed.load_core}, self.testbed.log()))
        relay.wait_until_listening(port)
        return port

    def start_server(self, stack):
        kind, variant = self.subject.kind, self.subject.variant
        command = self.testbed.builder.commands[self.subject.name]
        redis_port = self.port_for_server(stack)
        self.port = next(self.testbed.ports)
        environment = {"PORT": str(self.port), "REDIS_PORT": str(redis_port), "PYTHONDONTWRITEBYTECODE": "1"}
        if kind == "notch":
            environment = self.settings(redis_port)
        elif kind == "limit":
            command = [*command, str(self.port), *([str(redis_port)] if self.store else []),
                     *([receipts(self.testbed.root)] if variant == "once" else [])]
        elif command == ["nginx"]:
            command = ["nginx", "-p", str(self.home), "-c", self.fill_in("nginx/nginx.conf", redis_port)]
        elif variant == "webdis":
            command = ["webdis", self.fill_in("webdis/webdis.json", redis_port)]
        self.server = stack.enter_context(Process(command, self.cores, self.testbed.log(), environment))
        self.server.wait_until_listening(self.address)

    @property
    def address(self):
        """Returns where the server listens: its port on loopback, or the path of its socket."""
        return self.home / "notch.sock" if "clients" in self.subject.unix else self.port

    def settings(self, redis_port):
        """Returns an environment without the variables of the caller, whose REDIS_URL must not be used."""
        settings = {"WORKERS": str(self.subject.workers), "LISTEN": f"127.0.0.1:{self.port}"}
        if self.subject.idle:
            settings.update(MAX_CONNECTIONS="20000", IDLE_TIMEOUT="30m")
        if "clients" in self.subject.unix:
            settings["LISTEN"] = f"unix:{self.address}"
        if "redis" in self.subject.unix:
            settings["REDIS_URL"] = f"unix://{self.home}/redis.sock"
        elif self.store:
            settings["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}"
        else:
            settings.update(LEDGER=str(self.home / "notch.ledger"), FSYNC=self.subject.store.split("/")[1])
        return settings

    def fill_in(self, template, redis_port):
        text = (self.testbed.root / "bench/peers" / template).read_text()
        for name, value in (("PORT", self.port), ("REDIS_PORT", redis_port), ("FOLDER", self.home)):
            text = text.replace(f"@{name}@", str(value))
        filled = self.home / os.path.basename(template)
        filled.write_text(text)
        return str(filled)

    @property
    def counts(self):
        """Returns whether the requests must appear in the total of a store."""
        return self.subject.store != "" and self.subject.path in ("/count", "/INCR/visits.txt")

    def total(self):
        """Returns the total: from Redis directly, from a ledger through notch."""
        if self.store:
            return redis_total(self.store_port)
        if not self.subject.store:
            return 0
        with socket.create_connection(("127.0.0.1", self.port), 5) as peer:
            peer.sendall(b"GET /total HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return int(re.search(rb"\r\n\r\n(\d+)", peer.makefile("rb").read())[1])

    def check_running(self):
        for process in (self.server, self.store):
            if process:
                process.check_running()

    def open_idle_connections(self, stack, size):
        """Opens connections that get one response each and are idle then."""
        request = b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(size):
            peer = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", self.port), TIMEOUT)))
            peer.sendall(request)
            if not peer.recv(1000).startswith(b"HTTP/1.1 200"):
                raise Failed(f"{self.subject.label} refuses idle connections")
