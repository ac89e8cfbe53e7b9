"""Each page in each mode of a browser: accessibility, keyboard, zoom and contrast. A part of scripts/browser."""

import base64
import json
import pathlib
import signal
import subprocess

from webdriver import SMALL, Browser, check, fetch_text, free_port, is_unavailable, wait_until

AXE = "axe-core@4.14.1"

# The modes of the browser, each with the differences from a light window of 800 pixels.
MODES = {
    "light": {},
    "dark": {"prefers-color-scheme": "dark"},
    "phone": {"width": 360, "height": 640, "mobile": True},
    "narrow": {"width": 320, "height": 256},  # 400 % zoom of 1280 by 1024
    "zoom": {"width": 640, "height": 512, "deviceScaleFactor": 2},  # 200 % zoom of the same
    "print": {"media": "print"},
    "print-dark": {"media": "print", "prefers-color-scheme": "dark"},
    "forced": {"forced-colors": "active"},
    "forced-dark": {"forced-colors": "active", "prefers-color-scheme": "dark"},
}

BADGES = ["", "style=short", "style=comma", "label=readers", "label=pages%20%26%20posts&color=brightgreen",
          "color=green", "color=yellowgreen", "color=yellow", "color=orange", "color=red", "color=grey",
          "color=lightgrey", "color=0af", "label=%E2%98%83&style=short&color=ff69b4"]


# The last has the greatest length.
NAMES = ["blog", "shop", "guest-book_2026.with-32-letters."]


def install_axe(root):
    """Installs axe-core from npm; returns its source, or `None` if that fails."""
    folder = root / "target/axe"
    path = folder / "node_modules/axe-core"
    if not path.exists() or json.loads((path / "package.json").read_text())["version"] != AXE.split("@")[1]:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--silent", AXE]
        if subprocess.call(command):
            return None
    return (path / "axe.min.js").read_text()


def looks(notch, folder, processes, driver_port, pages_port, axe, pictures, shots):
    """Opens every kind of page. Saves a picture of each in each mode in the folder `pictures`, and badges.png in
    `shots`, if they are set. `pages_port` serves the folder `pages`."""
    data, port, redis_port = pathlib.Path(folder) / "looks", free_port(), free_port()
    data.mkdir()
    redis_command = ["redis-server", "--port", redis_port, "--appendonly", "yes", "--dir", data, "--save", ""]
    redis = processes.start(*redis_command)
    settings = {"LISTEN": f"127.0.0.1:{port}", "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_port),
                "COUNTERS": ",".join(NAMES), "STORE_TIMEOUT": "500ms"}
    processes.start(notch, cwd=data, env=settings)
    site = f"http://127.0.0.1:{port}"
    wait_until("notch counts", lambda: fetch_text(site + "/total") == "0")
    subprocess.run(["redis-cli", "-p", str(redis_port), "set", "visits", "1234566"], check=True, capture_output=True)
    viewer = Viewer(Browser(driver_port), Browser(driver_port), site, axe, pictures)
    viewer.pages, viewer.pages_port = pathlib.Path(folder) / "pages", pages_port
    keyboard(viewer)
    viewer.look("start", "/", "1,234,568 visits so far", MODES)
    viewer.look("named", "/total/blog", "0 visits so far")
    viewer.look("count", "/count", "You are visitor 1,234,569", ["light", "dark", "phone", "print", "forced"])
    viewer.look("404", "/nowhere", None, ["light", "dark", "phone", "print", "forced"])
    viewer.look("404-counter", "/count/unknown")
    viewer.browser.cdp("Network.enable")
    viewer.browser.cdp("Network.setExtraHTTPHeaders", headers={"Purpose": "prefetch"})
    viewer.look("403", "/count")
    viewer.browser.cdp("Network.setExtraHTTPHeaders", headers={})
    viewer.look("405", lambda: viewer.post("/total"))
    without_script(viewer)
    badges(viewer)
    if shots:
        viewer.browser.cdp("Emulation.setDeviceMetricsOverride", width=176, height=440, deviceScaleFactor=1,
                           mobile=False)
        viewer.browser.run("document.querySelector('h1').remove()")
        (shots / "badges.png").write_bytes(base64.b64decode(viewer.browser.call("GET", "/screenshot")))
    redis.send_signal(signal.SIGSTOP)
    viewer.look("504", "/count")
    redis.send_signal(signal.SIGCONT)
    redis.kill()
    redis.wait()
    wait_until("notch has detected the failure", lambda: is_unavailable(site + "/total"))
    viewer.look("start-503", "/", "no count right now: the store is unavailable")
    viewer.look("503", "/count")
    badges(viewer, "badges-503", ["", "label=readers&color=red"])
    viewer.browser.call("DELETE", "")
    viewer.meter.call("DELETE", "")


class Viewer:
    """A browser that shows pages in each mode, and another one that measures the pictures of them."""

    def __init__(self, browser, meter, site, axe, pictures):
        self.browser, self.meter, self.site, self.axe, self.pictures = browser, meter, site, axe, pictures

    def post(self, path):
        self.browser.go(self.site)
        self.browser.run(f"document.forms[0].onsubmit = null; document.forms[0].action = '{path}'")
        self.browser.click("button")

    def look(self, name, path, text=None, modes=("dark", "phone")):
        """Opens a page, by its path or by a function, and looks at it in each of the modes."""
        # Of a page that was loaded with forced colours, Chromium does not draw another background later.
        self.set_mode("light")
        path() if callable(path) else self.browser.go(self.site + path)
        wait_until(f"{name} is loaded", lambda: self.browser.run("return document.readyState") == "complete")
        if name[:3].isdigit():
            shown = self.browser.run("return performance.getEntriesByType('navigation')[0].responseStatus")
            check(f"the status of {name}", shown, int(name[:3]))
        check(f"the text of {name}", text in (None, self.browser.status_text()), True)
        for mode in modes:
            self.check(name, mode)

    def check(self, name, mode):
        """Checks the current page in a mode, and takes its picture."""
        self.set_mode(mode)
        picture = self.browser.call("GET", "/screenshot")
        if self.pictures:
            self.pictures.mkdir(parents=True, exist_ok=True)
            (self.pictures / f"{name}-{mode}.png").write_bytes(base64.b64decode(picture))
        overflow = self.browser.run("return document.documentElement.scrollWidth - innerWidth")
        check(f"pixels of {name} beside the window in {mode}", max(overflow, 0), 0)
        scale, boxes = self.browser.run(BOXES)
        measured = self.meter.run(MEASURE % json.dumps([picture, scale, boxes]))
        check(f"number of texts of {name} in {mode}", len(measured) >= 1, True)
        low = [found for found in measured if found[1] < LEAST_CONTRAST[found[2]]]
        check(f"contrast of {name} in {mode}", low, [])
        if "media" not in MODES[mode]:
            check(f"links and buttons of {name} that are too small in {mode}", self.browser.run(SMALL), [])
        if not self.browser.run("return 'axe' in window"):
            self.browser.run(self.axe)
        # Of colours that the browser replaces, axe reads only those of the style sheet.
        off = ["color-contrast"] if "forced-colors" in MODES[mode] else []
        check(f"findings of axe in {name}, {mode}", self.browser.run(AUDIT % json.dumps(off)), [])

    def set_mode(self, mode):
        # Without a value, a feature is that of this machine.
        features = {"prefers-color-scheme": "light", "forced-colors": "none"}
        window = {"width": 800, "height": 600, "deviceScaleFactor": 1, "mobile": False}
        media = MODES[mode].get("media", "")
        features |= {name: value for name, value in MODES[mode].items() if name in features}
        window |= {name: value for name, value in MODES[mode].items() if name in window}
        features = [{"name": name, "value": value} for name, value in features.items()]
        self.browser.cdp("Emulation.setEmulatedMedia", media=media, features=features)
        self.browser.cdp("Emulation.setDeviceMetricsOverride", **window)
        # A picture shows the last frame that was drawn.
        self.browser.run("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


# The violations that axe-core finds in the page, by the rules of WCAG 2.2 AA and its own, except for the rules %s.
AUDIT = """
const rules = Object.fromEntries(%s.map(rule => [rule, {enabled: false}]))
return axe.run(document, {resultTypes: ["violations"], rules: {"target-size": {enabled: true}, ...rules}}).then(
  results => results.violations.map(({id, nodes}) => [id, ...nodes.map(node => node.html + node.failureSummary)]))
"""

# The texts in the window and the edges of its buttons: which, and where in the picture.
BOXES = """
const box = (name, kind, {x, y, width, height}) => [name, kind, x, y, width, height]
const texts = [...document.querySelectorAll("h1, header p, p span, b, button, footer, nav a")].filter(
  element => element.innerText.trim()).map(element => box(element.innerText, "text", element.getBoundingClientRect()))
const edges = [...document.querySelectorAll("button")].map(element => element.getBoundingClientRect()).map(
  ({x, y, width}) => box("edge", "edge", {x: x + width / 2, y: y - 4, width: 4, height: 8}))
return [devicePixelRatio, [...texts, ...edges].filter(([,, x, y, width, height]) =>
  width && height && y >= 0 && y + height <= innerHeight)]
"""

# WCAG 2.2, success criteria 1.4.3 and 1.4.11.
LEAST_CONTRAST = {"text": 4.5, "edge": 3}

# The contrast of each text in a picture: of the most frequent colour in its box, and of the colour least like it.
MEASURE = """
const [picture, scale, boxes] = %s
const response = fetch("data:image/png;base64," + picture)
return response.then(response => response.blob()).then(createImageBitmap).then(image => {
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d", {willReadFrequently: true})
  context.drawImage(image, 0, 0)
  const linear = part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4
  return boxes.map(([name, kind, ...box]) => {
    const {data} = context.getImageData(...box.map(length => Math.round(length * scale)))
    const counts = new Map()
    for (let at = 0; at < data.length; at += 4) {
      const [r, g, b] = [0, 1, 2].map(part => linear(data[at + part] / 255))
      const luminance = .2126 * r + .7152 * g + .0722 * b + .05
      counts.set(luminance, (counts.get(luminance) ?? 0) + 1)
    }
    const [[frequent]] = [...counts].sort(([, one], [, other]) => other - one)
    const ratios = [...counts.keys()].map(other => Math.max(other, frequent) / Math.min(other, frequent))
    return [name, Math.max(...ratios), kind]
  })
})
"""

TAB, ENTER, SPACE = "\ue004", "\ue007", " "

# The element with the focus: its text, and whether the focus can be seen.
FOCUSED = """
const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement)
return [document.activeElement.innerText, outlineStyle != "none" && parseFloat(outlineWidth) >= 2]
"""


def keyboard(viewer):
    """With the keyboard alone: every link and button has a visible focus in the order of the page, and Enter and Space
    press the button, which keeps the focus."""
    browser = viewer.browser
    browser.go(viewer.site)
    for mode in "light", "forced":
        viewer.set_mode(mode)
        browser.call("POST", "/refresh")
        order = []
        for _ in range(4):
            press(browser, TAB)
            text, is_visible = browser.run(FOCUSED)
            check(f"whether the focus is visible on {text} in {mode}", is_visible, True)
            order.append(text)
        check("the order of the focus", order, ["Count another visit", *NAMES])
    browser.go(viewer.site)
    press(browser, TAB)
    for key, number in (ENTER, "1,234,567"), (SPACE, "1,234,568"):
        press(browser, key)
        wait_until(f"the key counts visit {number}", lambda: browser.status_text() == f"You are visitor {number}")
        check("the focus after that", browser.run(FOCUSED), ["Count another visit", True])
    browser.go(viewer.site + "/nowhere")
    press(browser, TAB)
    check("the focus on the page of an error", browser.run(FOCUSED), ["Start page", True])
    press(browser, ENTER)
    wait_until("the key follows the link", lambda: browser.run("return location.pathname") == "/")


def press(browser, key):
    actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
    browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})


def without_script(viewer):
    """The start page, and the page after its button was pressed, without script."""
    viewer.set_mode("light")
    viewer.browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    viewer.browser.go(viewer.site)
    viewer.browser.click("button")
    # This runs no script of the page.
    wait_until("the form counts", lambda: "1,234,570" in json.dumps(viewer.browser.cdp("DOM.getDocument", depth=-1)))
    viewer.browser.cdp("Emulation.setScriptExecutionDisabled", value=False)
    check("whether a script ran", viewer.browser.run("return typeof onpageshow"), "object")
    viewer.check("script-off", "light")


def badges(viewer, name="badges", queries=BADGES):
    """Badges in all styles on a page of another site, light and dark."""
    images = "".join(f"<p><img src='{viewer.site}/badge.svg?{query}' alt='visits'> " for query in queries)
    page = f"""<!doctype html><html lang=en><meta charset=utf-8><title>Badges</title>
        <meta name=viewport content="width=device-width"><style>:root{{color-scheme:light dark}}p{{margin:6px}}</style>
        <main><h1>Badges</h1>{images}</main>"""
    viewer.set_mode("light")
    (viewer.pages / f"{name}.html").write_text(page)
    viewer.browser.go(f"http://127.0.0.1:{viewer.pages_port}/{name}.html")
    wait_until("all badges are drawn", lambda: viewer.browser.run(
        "return [...document.images].every(image => image.complete && image.naturalHeight == 20)"))
    for mode in "dark", "forced", "light":
        viewer.check(name, mode)
