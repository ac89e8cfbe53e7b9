"""A stack of Compose: started under a project name of its own, measured through its control groups."""

import functools
import json
import os
import re
import subprocess

from rig.processes import HERTZ, TIMEOUT, Failed, fields, log_line

UP_SECONDS = 600
# The components of a report, and their services in the Compose files.
SERVICES = {"proxy": "balancer", "nginx": "balancer", "web": "web", "redis": "Redis"}
COMPONENTS = ("balancer", "web", "Redis", "docker-proxy")


@functools.cache
def engine_runs():
    """Returns whether Docker and Compose respond."""
    try:
        return all(subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                                  timeout=TIMEOUT).returncode == 0
                   for command in (["docker", "info"], ["docker", "compose", "version"]))
    except (OSError, subprocess.TimeoutExpired):
        return False


def docker(*arguments, folder=None, environment=None, seconds=UP_SECONDS):
    """Returns the output of a command of Docker."""
    result = subprocess.run(["docker", *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, text=True,
                            capture_output=True, check=False, timeout=seconds)
    if result.returncode:
        raise Failed(f"docker {' '.join(arguments)} failed: {result.stderr[-1000:]}")
    return result.stdout


def proportional_set_size(pids):
    """Returns the memory of processes in bytes, in which pages that several of them have are divided among them."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except PermissionError:
            raise Failed("the memory of containers can only be read as root") from None
        except (OSError, ProcessLookupError):
            # It has ended meanwhile.
            continue
    return total


class ControlGroup:
    """The control group of a container, of version 1 or 2."""

    def __init__(self, pid):
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
            paths = {name: path for _, names, path in (line.strip().split(":", 2) for line in file)
                     for name in names.split(",")}
        is_old = "cpuacct" in paths
        root = "/sys/fs/cgroup/cpuacct" if is_old else "/sys/fs/cgroup"
        self.folder = root + paths["cpuacct" if is_old else ""]
        self.is_old = is_old

    def read(self, name):
        with open(f"{self.folder}/{name}", encoding="ascii") as file:
            return file.read()

    def seconds(self):
        """Returns the processor seconds of all processes that were ever in it."""
        if self.is_old:
            return int(self.read("cpuacct.usage")) / 1e9
        return int(re.search(r"^usage_usec (\d+)$", self.read("cpu.stat"), re.MULTILINE)[1]) / 1e6

    def pids(self):
        return self.read("cgroup.procs").split()


class ComposeStack:
    """`files` are those of Compose, `balancer` is the service with the published port `inner`."""

    def __init__(self, testbed, name, files, balancer, inner, **settings):
        self.testbed = testbed
        self.balancer = balancer
        self.project = f"notch-bench-{os.getpid()}-{name}"
        self.files = files
        self.inner = inner
        # A connection to an address that is not of loopback is redirected by the kernel, as that of a visitor; one to
        # loopback goes through the userland docker-proxy.
        self.host = gateway()
        self.port, self.loopback_port, statistics = (next(testbed.ports) for _ in range(3))
        # Nothing of the caller, whose settings of another stack must not apply, but the base images.
        self.environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")
                            or name.startswith("DOCKER_") or name.endswith("_IMAGE")}
        self.environment |= {"HTTP_PORT": f"{self.host}:{self.port}", "STATS_PORT": str(statistics), **settings}
        self.override = testbed.folder / f"{self.project}.yaml"
        self.override.write_text(json.dumps({"services": {
            service: {"cpuset": str(testbed.server_core)} | self.additions(service)
            for service in (balancer, "web", "redis")}}))

    def additions(self, service):
        if service != self.balancer:
            return {}
        published = {"ports": [f"127.0.0.1:{self.loopback_port}:{self.inner}"]}
        # nginx of Debian has its temporary files there.
        return published | ({"tmpfs": ["/var/lib/nginx"]} if service == "nginx" else {})

    def compose(self, *arguments):
        files = [option for file in (*self.files, self.override) for option in ("-f", str(file))]
        return docker("compose", "--env-file", os.devnull, "--progress", "quiet", "-p", self.project, *files,
                      *arguments, folder=self.testbed.root, environment=self.environment)

    def __enter__(self):
        try:
            self.compose("up", "-d", "--build", "--wait", "--scale", "web=3")
            self.pin_docker_proxies()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        self.compose("down", "-v", "-t", "2", "--remove-orphans", "--rmi", "local")
        # Compose keeps an image that has a name of its own.
        for image in docker("image", "ls", "-q", f"{self.project}-*").split():
            docker("image", "rm", image)

    def scale(self, size):
        self.compose("up", "-d", "--no-recreate", "--wait", "--scale", f"web={size}")

    def containers(self, service):
        return self.compose("ps", "-q", "--no-trunc", service).split()

    def pids(self, service):
        return [docker("inspect", "-f", "{{.State.Pid}}", container).strip() for container in self.containers(service)]

    def kill_replica(self):
        """Kills one replica, and returns a function that starts it again."""
        container = self.containers("web")[0]
        docker("kill", "-s", "KILL", container)
        return lambda: docker("start", container)

    def docker_proxies(self):
        """Returns the processes that forward the published ports of this stack."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    arguments = file.read().split("\0")
            except OSError:
                continue
            if arguments[0].endswith("docker-proxy") and any(str(port) in arguments for port in (
                    self.port, self.loopback_port)):
                found.append(int(pid))
        return found

    def pin_docker_proxies(self):
        for pid in self.docker_proxies():
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {self.testbed.server_core})

    @functools.cached_property
    def groups(self):
        """The control groups of each component. A replica that is started again has another one."""
        return {SERVICES[service]: [ControlGroup(pid) for pid in self.pids(service)]
                for service in (self.balancer, "web", "redis")}

    def seconds(self):
        """Returns the processor seconds of each component."""
        used = {name: sum(group.seconds() for group in groups) for name, groups in self.groups.items()}
        used["docker-proxy"] = sum(int(ticks) for pid in self.docker_proxies() for ticks in fields(pid)[11:13]) / HERTZ
        return used

    def memory(self):
        """Returns the bytes of each component."""
        found = {name: proportional_set_size(pid for group in groups for pid in group.pids())
                 for name, groups in self.groups.items()}
        found["docker-proxy"] = proportional_set_size(self.docker_proxies())
        return found

    def sizes(self):
        """Returns the bytes of the image of each component."""
        found = {}
        for service in (self.balancer, "web", "redis"):
            image = docker("inspect", "-f", "{{.Image}}", self.containers(service)[0]).strip()
            found[SERVICES[service]] = int(docker("image", "inspect", "-f", "{{.Size}}", image))
        return found

    def redis(self, *command):
        return docker("exec", self.redis_container, "redis-cli", *command).strip()

    @functools.cached_property
    def redis_container(self):
        return self.containers("redis")[0]

    def check_running(self):
        """Every container runs: an exception names the state of one that does not."""
        for service in (self.balancer, "web", "redis"):
            for container in self.containers(service):
                state = docker("inspect", "-f", "{{.State.Status}} {{.State.OOMKilled}}", container).strip()
                if state != "running false":
                    raise Failed(f"{self.project}: {service} is {state}")


@functools.cache
def gateway():
    """Returns the address of this machine in Docker's default network; loopback if it has none."""
    address = docker("network", "inspect", "bridge", "-f", "{{range .IPAM.Config}}{{.Gateway}}{{end}}").strip()
    return address or "127.0.0.1"
