"""Who is measured: how each is built, and how it is started beside a store of its own."""

import contextlib
import dataclasses
import os
import re
import shutil
import socket
import subprocess

from rig.processes import PATIENCE, Failed, Process, free_ports, redis_total, say

BUILD_SECONDS = 1200
LUA = ("/usr/lib/nginx/modules/ngx_http_lua_module.so", "/usr/share/lua/5.1/nginx/redis.lua")


class Absent(Exception):
    """A contender cannot be had on this machine."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """`name` is KIND/WHAT, as notch/tokio; the rest says in which surroundings it runs."""

    name: str
    store: str = "redis/everysec"
    path: str = "/count"
    distance: int = 0
    workers: int = 1
    crowd: int = 0

    @property
    def kind(self):
        return self.name.split("/")[0]

    @property
    def what(self):
        return self.name.split("/")[1]

    @property
    def label(self):
        words = [TITLES.get(self.name, self.name)]
        if self.kind == "notch":
            words = [f"notch, {self.what}"]
        if self.kind in ("notch", "limit") and self.store.startswith("ledger"):
            words.append(f"ledger, `FSYNC={self.store.split('/')[1]}`")
        elif self.store not in ("redis/everysec", ""):
            words.append(f"`appendfsync {self.store.split('/')[1]}`")
        if self.path not in ("/count", "/static", "/INCR/visits.txt"):
            words.append(f"`{self.path}`")
        if self.distance:
            words.append(f"Redis {self.distance / 1000:g} ms away")
        if self.workers > 1:
            words.append(f"{self.workers} workers on {self.workers} cores")
        if self.crowd:
            words.append(f"{self.crowd:,} more connections at rest")
        return ", ".join(words)


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
    "tool/redis-benchmark-1": "redis-benchmark -P 1",
    "tool/redis-benchmark-16": "redis-benchmark -P 16",
}


def receipts(root):
    """Returns the script by which notch counts, from its source."""
    source = (root / "src/redis/receipt.rs").read_text()
    return source.partition('const SCRIPT: &[u8] = b"\\\n')[2].partition('";')[0]


PEERS = [name for name in TITLES if name.startswith("peer/")]


def run(words, log, folder=None, **environment):
    """One step of making a contender."""
    with open(log, "ab") as output:
        try:
            done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                  env={**os.environ, **environment}, timeout=BUILD_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise Absent(str(failure)) from None
    if done.returncode:
        raise Absent(f"{' '.join(words[:3])} failed: {log} says why")


class Workshop:
    """Makes each contender once, under `target/bench`, and knows the command that starts it."""

    def __init__(self, root, options):
        self.root = root
        self.made = root / "target/bench"
        self.options = options
        self.commands = {}
        self.absent = {}
        self.made.mkdir(parents=True, exist_ok=True)

    def make(self, name):
        """Whether `name` is there to be measured; if not, says why, once."""
        if name in self.absent:
            return False
        if name not in self.commands:
            try:
                say(f"making {name}")
                self.commands[name] = getattr(self, "make_" + name.split("/")[0])(name.split("/")[1])
            except Absent as reason:
                self.absent[name] = str(reason)
                say(f"LEFT OUT: {name}: {reason}")
                return False
        return True

    def need(self, *wants):
        run(["scripts/lib/need", *wants], self.made / "need.log", self.root)

    def make_notch(self, driver):
        binary = self.options.binary
        if not binary:
            built = subprocess.run(["scripts/build", "--std", self.options.std, "--driver", driver], cwd=self.root,
                                   stdout=subprocess.PIPE, check=False, text=True, timeout=BUILD_SECONDS)
            if built.returncode:
                raise Failed(f"notch does not build with driver {driver}")
            binary = self.root / built.stdout.strip()
        # A copy, so that a build meanwhile does not change what is measured.
        return [shutil.copy(binary, self.made / f"notch-{driver}")]

    def make_limit(self, mode):
        self.compile("limit")
        self.compile("far")
        return [str(self.made / "limit"), mode]

    def compile(self, name):
        source = self.root / f"bench/limit/{name}.c"
        run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(self.made / name), str(source)], self.made / "limit.log")

    def make_tool(self, name):
        self.need("redis-benchmark=redis-tools")
        return ["redis-benchmark", "-P", name.rpartition("-")[2]]

    def make_nginx(self, _):
        self.need("nginx=nginx-light,libnginx-mod-http-lua,lua-nginx-redis")
        missing = [file for file in LUA if not os.path.exists(file)]
        if missing:
            raise Absent(f"{missing[0]} is missing: install libnginx-mod-http-lua and lua-nginx-redis")
        return ["nginx"]

    def make_peer(self, name):
        sources = self.root / "bench/peers"
        log = self.made / f"{name}.log"
        log.unlink(missing_ok=True)
        if name == "nginx-lua":
            return self.make_nginx(name)
        if name == "webdis":
            self.need("webdis")
            return ["webdis"]
        if name in ("axum", "actix", "ntex"):
            run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", name, "--target-dir",
                 str(self.made / "rust")], log, sources / "rust")
            return [str(self.made / "rust/release" / name)]
        if name == "go":
            self.need("go=golang-go,golang-github-gomodule-redigo-dev")
            run(["go", "build", "-o", str(self.made / "go"), "."], log, sources / "go", GO111MODULE="off",
                GOPATH="/usr/share/gocode", GOCACHE=str(self.made / "go-cache"))
            return [str(self.made / "go")]
        if name == "node":
            self.need("node=nodejs", "npm")
            shutil.copytree(sources / "node", self.made / "node", dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("node_modules"))
            run(["npm", "ci", "--no-audit", "--no-fund"], log, self.made / "node")
            return ["node", str(self.made / "node/server.js")]
        return self.make_python(name, sources / "python", log)

    def make_python(self, name, sources, log):
        home = self.made / "python"
        run(["python3", "-m", "venv", str(home)], log)
        run([str(home / "bin/pip"), "install", "-q", "-r", str(sources / "requirements.txt")], log)
        return [str(home / "bin/python"), str(sources / f"{name}_app.py")]


class Arena:
    """Where contenders run: the cores, a temporary folder, and ports."""

    def __init__(self, root, workshop, folder, server_core, load_core):
        self.root = root
        self.workshop = workshop
        self.folder = folder
        self.server_core = server_core
        self.load_core = load_core
        self.ports = free_ports()
        self.logs = 0

    def log(self):
        self.logs += 1
        return self.folder / f"{self.logs}.log"

    def start(self, contender, stack):
        """Starts `contender` and its store, which live as long as `stack`."""
        return Running(self, contender, stack)


class Running:
    """A contender that serves, with its store."""

    def __init__(self, arena, contender, stack):
        self.arena = arena
        self.contender = contender
        self.home = arena.folder / f"run-{arena.logs}"
        self.home.mkdir()
        self.store = self.server = None
        self.store_port = self.port = 0
        # Two workers get both cores, which they then share with the load.
        self.cores = {arena.server_core} if contender.workers == 1 else {arena.server_core, arena.load_core}
        if contender.store.startswith("redis/"):
            self.start_redis(stack, contender.store.split("/")[1])
        if contender.kind != "tool":
            self.start_server(stack)
        if contender.crowd:
            self.gather(stack, contender.crowd)

    def start_redis(self, stack, durability):
        self.store_port = next(self.arena.ports)
        self.store = stack.enter_context(Process(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.store_port), "--dir", str(self.home), "--save",
             "", "--appendonly", "yes", "--appendfsync", durability, "--auto-aof-rewrite-percentage", "0",
             "--maxclients", "20000"],
            {self.arena.server_core}, self.arena.log()))
        self.store.until_it_listens(self.store_port)

    def redis_seen(self, stack):
        """The port at which the server finds Redis: with a distance, that of the relay, which runs beside the load."""
        if not self.contender.distance:
            return self.store_port
        port = next(self.arena.ports)
        relay = stack.enter_context(Process(
            [str(self.arena.workshop.made / "far"), str(self.contender.distance), str(port), str(self.store_port)],
            {self.arena.load_core}, self.arena.log()))
        relay.until_it_listens(port)
        return port

    def start_server(self, stack):
        kind, what = self.contender.kind, self.contender.what
        words = self.arena.workshop.commands[self.contender.name]
        redis_port = self.redis_seen(stack)
        self.port = next(self.arena.ports)
        environment = {"PORT": str(self.port), "REDIS_PORT": str(redis_port), "PYTHONDONTWRITEBYTECODE": "1"}
        if kind == "notch":
            environment = self.settings(redis_port)
        elif kind == "limit":
            words = [*words, str(self.port), *([str(redis_port)] if self.store else []),
                     *([receipts(self.arena.root)] if what == "once" else [])]
        elif words == ["nginx"]:
            words = ["nginx", "-p", str(self.home), "-c", self.fill_in("nginx/nginx.conf", redis_port)]
        elif what == "webdis":
            words = ["webdis", self.fill_in("webdis/webdis.json", redis_port)]
        self.server = stack.enter_context(Process(words, self.cores, self.arena.log(), environment))
        self.server.until_it_listens(self.port)

    def settings(self, redis_port):
        """An environment of our own making: a REDIS_URL of the caller's must not be counted into."""
        settings = {"WORKERS": str(self.contender.workers), "LISTEN": f"127.0.0.1:{self.port}"}
        if self.contender.crowd:
            settings.update(MAX_CONNECTIONS="20000", IDLE_TIMEOUT="30m")
        if self.store:
            settings["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}"
        else:
            settings.update(LEDGER=str(self.home / "notch.ledger"), FSYNC=self.contender.store.split("/")[1])
        return settings

    def fill_in(self, template, redis_port):
        text = (self.arena.root / "bench/peers" / template).read_text()
        for word, value in (("PORT", self.port), ("REDIS_PORT", redis_port), ("FOLDER", self.home)):
            text = text.replace(f"@{word}@", str(value))
        filled = self.home / os.path.basename(template)
        filled.write_text(text)
        return str(filled)

    @property
    def counts(self):
        """Whether what is asked has to appear in a store."""
        return self.contender.store != "" and self.contender.path in ("/count", "/INCR/visits.txt")

    def total(self):
        """What the store says it has counted: Redis is asked itself, the ledger through its only owner."""
        if self.store:
            return redis_total(self.store_port)
        if not self.contender.store:
            return 0
        with socket.create_connection(("127.0.0.1", self.port), 5) as peer:
            peer.sendall(b"GET /total HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return int(re.search(rb"\r\n\r\n(\d+)", peer.makefile("rb").read())[1])

    def check_alive(self):
        for process in (self.server, self.store):
            if process:
                process.check_alive()

    def gather(self, stack, size):
        """Connections that have had one answer each and then say nothing more."""
        request = b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(size):
            peer = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", self.port), PATIENCE)))
            peer.sendall(request)
            if not peer.recv(1000).startswith(b"HTTP/1.1 200"):
                raise Failed(f"{self.contender.label} refuses its crowd")
