"""A browser that is driven over WebDriver, child processes, and checks: for scripts/browser and others."""

import base64
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

NAME = pathlib.Path(sys.argv[0]).name
TIMEOUT = 20  # seconds


class Processes:
    """Children that end with the script."""

    def __enter__(self):
        self.running = []
        return self

    def __exit__(self, *_):
        for child in reversed(self.running):
            child.terminate()
            child.wait()

    def start(self, *arguments, **options):
        no_output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.running.append(subprocess.Popen([str(argument) for argument in arguments], **no_output, **options))
        return self.running[-1]


class Browser:
    """One session of WebDriver (https://www.w3.org/TR/webdriver2/); `switches` are options of Chromium."""

    def __init__(self, port, *switches):
        self.base = f"http://127.0.0.1:{port}"
        wait_until("chromedriver responds", lambda: self.call("GET", "/status")["ready"])
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        capabilities = {"goog:chromeOptions": {"args": [*options, *switches]},
                        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.base += f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def go(self, address):
        self.call("POST", "/url", {"url": address})

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def cdp(self, command, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def accessible_nodes(self, **query):
        """Returns the nodes of the accessibility tree with a role or a name."""
        root = self.cdp("DOM.getDocument", depth=0)["root"]
        return self.cdp("Accessibility.queryAXTree", backendNodeId=root["backendNodeId"], **query)["nodes"]

    def status_text(self):
        """Returns the text of the element with the role `status`, which screen readers announce."""
        return " ".join(self.run("return document.querySelector('[role=status]').innerText").split())

    def press(self):
        self.run("document.querySelector('button').click()")

    def click(self, selector):
        """Clicks the element with the mouse."""
        element = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{next(iter(element.values()))}/click")

    def open_tab(self):
        """Opens a tab and switches to it."""
        handle = self.call("POST", "/window/new", {"type": "tab"})["handle"]
        self.call("POST", "/window", {"handle": handle})
        return handle

    def close_others(self):
        """Closes all tabs but the first, and switches to it."""
        kept, *others = self.call("GET", "/window/handles")
        for handle in others:
            self.call("POST", "/window", {"handle": handle})
            self.call("DELETE", "/window")
        self.call("POST", "/window", {"handle": kept})

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def take_picture(self, path, scheme, width, height, mobile=False):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        fits = self.run("return document.documentElement.scrollWidth <= innerWidth")
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))
        check("the page fits its window", fits, True)
        check(f"contrast in {scheme}", self.run(CONTRAST), [])


# Texts whose contrast with their background is under 4.5 (WCAG 2.2, success criterion 1.4.3).
CONTRAST = """
const parts = color => color.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
const linear = part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4
const luminance = color => { const [r, g, b] = parts(color).map(linear)
  return .2126 * r + .7152 * g + .0722 * b + .05 }
const background = element => { const color = getComputedStyle(element).backgroundColor
  return color != "rgba(0, 0, 0, 0)" ? color : background(element.parentElement) }
return [...document.querySelectorAll("h1, p span, b, button, footer, a")].map(element => {
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(background(element))]
  return [element.tagName, Math.max(a, b) / Math.min(a, b)] }).filter(([, ratio]) => ratio < 4.5)
"""


# Links and buttons smaller than 24 by 24 pixels (WCAG 2.2, success criterion 2.5.8).
SMALL = """
return [...document.querySelectorAll("a, button")].map(element => [element.innerText, element.getBoundingClientRect()])
  .filter(([, box]) => box.width < 24 || box.height < 24).map(([text, box]) => [text, box.width, box.height])
"""


def check(description, actual, expected):
    if actual != expected:
        sys.exit(f"{NAME}: {description}: {actual!r}, expected {expected!r}")


def wait_until(description, condition):
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"{NAME}: {description}: not within {TIMEOUT} s")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetch_text(address):
    with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
        return response.read().decode().strip()


def is_unavailable(address):
    """Returns whether an address has the status 503."""
    try:
        return not fetch_text(address)
    except urllib.error.HTTPError as error:
        return error.code == 503
