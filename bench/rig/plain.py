"""The same stack as plain processes, with the same configuration, for machines without an engine of containers."""

import contextlib
import pathlib
import re
import subprocess

from rig.containers import proportional_set_size
from rig.processes import Failed, Process, process_tree

REPLICAS = 5


def edited(text, changes):
    """Replaces every part; a part that the file does not have is an error."""
    for part, replacement in changes.items():
        if part not in text:
            raise Failed(f"not in the configuration: {part}")
        text = text.replace(part, replacement)
    return text


class PlainStack:
    """`application` starts a replica: its command and environment, from its port and that of Redis. `balancer` is
    `haproxy`, `nginx` or `classic`. Replicas have fixed ports instead of names."""

    host = "127.0.0.1"

    def __init__(self, testbed, balancer, application):
        self.testbed = testbed
        self.kind = balancer
        self.application = application
        self.home = testbed.folder / f"plain-{balancer}-{testbed.logs}"
        self.home.mkdir()
        self.home.chmod(0o777)
        self.port, self.redis_port, self.statistics = (next(testbed.ports) for _ in range(3))
        self.loopback_port = self.port
        self.replica_ports = [next(testbed.ports) for _ in range(REPLICAS)]
        self.replicas = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.stack = stack
            self.store = self.launch(self.redis_command())
            self.store.wait_until_listening(self.redis_port)
            self.scale(3)
            command, environment = getattr(self, self.kind)()
            self.balancer = self.launch(command, environment)
            self.balancer.wait_until_listening(self.port)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def launch(self, command, environment=None):
        process = Process([str(part) for part in command], {self.testbed.server_core}, self.testbed.log(), environment)
        return self.stack.enter_context(process)

    def redis_command(self):
        if self.kind == "classic":
            options = ["--appendonly", "yes"]
        else:
            (self.home / "redis.conf").write_text(edited(
                (self.testbed.root / "redis/redis.conf").read_text(), {"dir /data": f"dir {self.home}"}))
            options = [str(self.home / "redis.conf")]
        return ["redis-server", *options, "--bind", "127.0.0.1", "--port", str(self.redis_port), "--dir",
                str(self.home)]

    def start_replica(self, port):
        command, environment = self.application(port, self.redis_port)
        self.replicas[port] = self.launch(command, environment)
        self.replicas[port].wait_until_listening(port)

    def scale(self, size):
        for index, port in enumerate(self.replica_ports):
            if index < size and port not in self.replicas:
                self.start_replica(port)
            elif index >= size and port in self.replicas:
                self.replicas.pop(port).__exit__()

    def kill_replica(self):
        """Kills one replica, and returns a function that starts it again."""
        port, process = next(iter(self.replicas.items()))
        for member in process_tree(process.pid):
            subprocess.run(["kill", "-9", str(member)], check=False, stderr=subprocess.DEVNULL)
        process.child.wait()
        return lambda: self.start_replica(port)

    def servers(self, form):
        return "\n".join(form.format(index=index, port=port) for index, port in enumerate(self.replica_ports, 1))

    def haproxy(self):
        version = re.search(r"version (\d+)\.(\d+)", subprocess.run(
            ["haproxy", "-v"], stdout=subprocess.PIPE, text=True, check=False).stdout)
        folder = self.testbed.root / "proxy"
        text = edited((folder / "haproxy.cfg").read_text(), {
            "bind :8080": f"bind 127.0.0.1:{self.port}", "bind :8404": f"bind 127.0.0.1:{self.statistics}"})
        text = re.sub(r"server-template web 1-16 web:8080 resolvers docker init-addr none(.*)",
                      lambda found: self.servers("server web{index} 127.0.0.1:{port}" + found[1]), text)
        text = re.sub(r"(?m)^resolvers docker\n( .*\n)*", "", text)
        environment = {"ERROR_PAGE": (folder / "error.html").read_text(),
                       "ERROR_POLICY": (folder / "error.policy").read_text().strip()}
        if version and (int(version[1]), int(version[2])) >= (3, 1):
            environment["ERRORS"] = str(folder / "errors")
        else:
            # Older ones do not have it, nor all statuses of these errors; neither matters while replicas are ready.
            text = text.replace(" init-state down", "")
        (self.home / "haproxy.cfg").write_text(text)
        return ["haproxy", "-db", "-f", str(self.home / "haproxy.cfg")], environment

    def nginx(self):
        """The same script as in the image writes its settings, with other places."""
        folder = self.testbed.root / "proxy"
        for name, changes in {
                "nginx.conf": {"/tmp/": f"{self.home}/",
                               "server web:8080 resolve max_fails=1 fail_timeout=1s;":
                                   self.servers("server 127.0.0.1:{port} max_fails=1 fail_timeout=1s;"),
                               "server web:8080 resolve max_fails=0;":
                                   self.servers("server 127.0.0.1:{port} max_fails=0;")},
                "notch-nginx": {"/tmp/": f"{self.home}/", "/etc/nginx/": f"{folder}/",
                                "listen 8080;": f"listen 127.0.0.1:{self.port};",
                                "[ ! -e /proc/net/if_inet6 ]": "true",
                                "exec nginx ": f"exec nginx -p {self.home} -c {self.home}/nginx.conf "}}.items():
            (self.home / name).write_text(edited((folder / name).read_text(), changes))
        return ["sh", str(self.home / "notch-nginx")], None

    def classic(self):
        text = edited((self.testbed.root / "bench/stacks/nginx.conf").read_text(), {
            "user nginx;": f"daemon off; pid {self.home}/pid;", "listen 80;": f"listen 127.0.0.1:{self.port};",
            "server web:8000 resolve;": self.servers("server 127.0.0.1:{port};"),
            "access_log off;": "access_log off; " + "".join(
                f"{kind}_temp_path {self.home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi",
                                                                     "scgi"))})
        (self.home / "nginx.conf").write_text(text)
        return ["nginx", "-e", "stderr", "-c", str(self.home / "nginx.conf")], None

    def processes(self):
        return {"balancer": [self.balancer], "web": list(self.replicas.values()), "Redis": [self.store]}

    def seconds(self):
        """Returns the processor seconds of each component."""
        return {name: sum(process.seconds() for process in processes) for name, processes in self.processes().items()}

    def memory(self):
        """Returns the bytes of each component."""
        return {name: proportional_set_size(pid for process in processes for pid in process_tree(process.pid))
                for name, processes in self.processes().items()}

    def sizes(self):
        """There are no images."""
        return {}

    def redis(self, *command):
        result = subprocess.run(["redis-cli", "-p", str(self.redis_port), *command], stdout=subprocess.PIPE, text=True,
                                check=True)
        return result.stdout.strip()

    def check_running(self):
        for processes in self.processes().values():
            for process in processes:
                process.check_running()


def python_application(root, home, name):
    """Returns a function for `PlainStack` that starts the command of the Dockerfile of a classic stack."""
    folder = root / "bench/stacks" / name
    words = re.search(r"^CMD \[(.*)\]$", (folder / "Dockerfile").read_text(), re.MULTILINE)[1]
    command = [word.strip().strip('"') for word in words.split(",")]
    program = pathlib.Path(home) / "bin" / command[0]

    def start(port, redis_port):
        arguments = [str(port) if word == "8000" else word.replace("0.0.0.0:8000", f"127.0.0.1:{port}")
                     for word in command[1:]]
        return [program, *arguments], {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_port),
                                       "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return start


def notch_application(root, binary):
    """Returns a function for `PlainStack` that starts notch with the defaults of compose.yaml."""
    settings = dict(re.findall(r"^ {6}([A-Z_]+): \$\{[A-Z_]+:-([^}]+)\}$", (root / "compose.yaml").read_text(),
                               re.MULTILINE))

    def start(port, redis_port):
        return [binary], settings | {"LISTEN": f"127.0.0.1:{port}", "REDIS_HOST": "127.0.0.1",
                                     "REDIS_PORT": str(redis_port)}
    return start
