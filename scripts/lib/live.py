"""The total on an open page is requested again: when, how often, and what it costs. A part of scripts/browser."""

import json
import pathlib
import signal
import time

from webdriver import Browser, check, fetch_text, free_port, is_unavailable, wait_until

# The shortest interval, so that this does not take long.
INTERVAL = 1


def live(notch, folder, processes, driver_port):
    """Opens pages whose total changes while they are open."""
    data, port, redis_port = pathlib.Path(folder) / "live", free_port(), free_port()
    data.mkdir()
    redis_command = ["redis-server", "--port", redis_port, "--appendonly", "yes", "--dir", data, "--save", ""]
    redis = processes.start(*redis_command)
    settings = {"LISTEN": f"127.0.0.1:{port}", "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_port),
                "COUNTERS": "blog", "STORE_TIMEOUT": "500ms", "PAGE_REFRESH": f"{INTERVAL}s"}
    processes.start(notch, cwd=data, env=settings)
    page = Page(Browser(driver_port), f"http://127.0.0.1:{port}")
    wait_until("notch counts", lambda: fetch_text(page.site + "/total") == "0")
    shows_each_total(page)
    keeps_the_number_of_a_visit(page)
    is_quiet_for_screen_readers(page)
    pauses_in_the_background(page)
    continues_after_back(page)
    redis = pauses_longer_after_each_failure(page, redis, lambda: processes.start(*redis_command))
    never_overlaps(page)
    shows_no_foreign_text(page)
    keeps_the_message_of_a_visit_in_doubt(page, redis)
    can_be_turned_off(notch, data, processes, page)
    page.browser.call("DELETE", "")


class Page:
    """A page of notch in a browser, and the requests that it has sent."""

    def __init__(self, browser, site):
        self.browser, self.site, self.times = browser, site, {}

    def visit(self, name=""):
        return int(fetch_text(f"{self.site}/count{name}"))

    def open(self, path):
        self.browser.go(self.site + path)
        self.forget_requests()

    def wait_for(self, text):
        wait_until(f"the page shows: {text}", lambda: self.browser.status_text() == text)

    def forget_requests(self):
        self.requests()
        self.times = {}

    def requests(self):
        """Returns start and end, in seconds, of each request of the page; one that goes on has no end."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.log("performance")]
        for event in events:
            params = event["params"]
            if event["method"] == "Network.requestWillBeSent" and params.get("type") == "Fetch":
                if params["request"]["method"] == "POST":
                    continue
                check("whether the page requests a total", "/total" in params["request"]["url"], True)
                self.times[params["requestId"]] = [params["timestamp"]]
            elif event["method"] in ("Network.loadingFinished", "Network.loadingFailed"):
                self.times.get(params["requestId"], []).append(params["timestamp"])
        return sorted(self.times.values())


def shows_each_total(page):
    """Each page shows the total of its own counter, not too often, and counts nothing."""
    for path, name in ("/total", ""), ("/total/blog", "/blog"), ("/", ""):
        page.open(path)
        total = page.visit(name)
        page.wait_for(f"{total} visit{'s' * (total > 1)} so far")
    for total in 3, 4:
        page.visit()
        page.wait_for(f"{total} visits so far")
    starts = [start for start, *_ in page.requests()]
    check("whether the page requested its total", len(starts) >= 3, True)
    early = [later - start for start, later in zip(starts, starts[1:]) if later - start < INTERVAL]
    check(f"requests sooner than {INTERVAL} s after the last", early, [])
    check("the total of an open page", fetch_text(page.site + "/total"), "4")


def keeps_the_number_of_a_visit(page):
    """The number of a visit is never replaced by a total."""
    page.open("/count")
    page.visit()
    time.sleep(1.6 * INTERVAL)
    check("the number of a visit", page.browser.status_text(), "You are visitor 5")
    check("requests of the page of a visit", page.requests(), [])
    page.open("/")
    page.browser.click("button")
    page.wait_for("You are visitor 7")
    page.forget_requests()
    page.visit()
    time.sleep(1.6 * INTERVAL)
    check("the number after the button", page.browser.status_text(), "You are visitor 7")
    check("requests after the button", page.requests(), [])


def is_quiet_for_screen_readers(page):
    """A total that has changed is not announced; the number of a visit is. The focus stays where it is."""
    page.open("/")
    check("the live region of a page that was opened", announcement(page), "polite")
    page.browser.run("document.querySelector('button').focus()")
    page.visit()
    page.wait_for("9 visits so far")
    check("the live region of a total", announcement(page), "off")
    check("the focus after a refresh", page.browser.run("return document.activeElement.tagName"), "BUTTON")
    page.browser.press()
    page.wait_for("You are visitor 10")
    check("the live region of a visit", announcement(page), "polite")
    check("the focus after a visit", page.browser.run("return document.activeElement.tagName"), "BUTTON")


def announcement(page):
    """Returns how the browser announces a change of the text, as the accessibility tree has it."""
    node = page.browser.accessible_nodes(role="status")[0]
    values = (value["value"]["value"] for value in node["properties"] if value["name"] == "live")
    return next(values, "off")


# Milliseconds from when the page was shown again to its next request.
DELAY = """
const starts = performance.getEntriesByType("resource").map(({startTime}) => startTime)
return Math.min(...starts.filter(start => start >= shownAt)) - shownAt
"""


def pauses_in_the_background(page):
    """A page in a tab that is not shown requests nothing, and continues as soon as it is shown."""
    page.open("/")
    page.browser.run("document.addEventListener('visibilitychange', () => window.shownAt = performance.now())")
    first = page.browser.call("GET", "/window")
    page.browser.open_tab()
    # A request may just have been sent.
    time.sleep(0.3)
    page.forget_requests()
    page.visit()
    time.sleep(2 * INTERVAL)
    check("requests in the background", page.requests(), [])
    page.browser.call("POST", "/window", {"handle": first})
    page.wait_for("11 visits so far")
    check("whether it continued at once", page.browser.run(DELAY) < INTERVAL * 1000, True)
    page.browser.close_others()


def continues_after_back(page):
    """A page that the browser kept (bfcache) continues when it is shown again."""
    page.open("/")
    page.browser.run("window.isKept = true")
    page.browser.go(page.site + "/total/blog")
    page.visit()
    page.browser.call("POST", "/back")
    wait_until("the page is shown", lambda: page.browser.run("return location.pathname") == "/")
    check("whether the page was kept", page.browser.run("return window.isKept"), True)
    page.wait_for("12 visits so far")
    page.wait_for(f"{page.visit()} visits so far")


def pauses_longer_after_each_failure(page, redis, restart):
    """Without a store, the page shows that, tries less and less often, and recovers. Returns the new Redis."""
    page.open("/")
    redis.kill()
    redis.wait()
    page.wait_for("no total, try again: the store is unavailable")
    check("the live region of an error", announcement(page), "polite")
    page.forget_requests()
    wait_until("the page has tried again twice", lambda: len(page.requests()) == 2)
    (first, *_), (second, *_) = page.requests()
    check("whether the pause is longer than the first, of 2 to 2.5 s", second - first > 3, True)
    redis = restart()
    wait_until("notch counts again", lambda: not is_unavailable(page.site + "/total"))
    # The next pause is a long one, unless the page is shown again.
    start = time.monotonic()
    for state in "minimize", "maximize":
        page.browser.call("POST", f"/window/{state}")
    page.wait_for("13 visits so far")
    check("whether it continued before the next pause of 8 s ended", time.monotonic() - start < 7, True)
    page.wait_for(f"{page.visit()} visits so far")
    return redis


def never_overlaps(page):
    """While a response is late there is no other request, and a late total does not replace the number of a visit."""
    page.open("/")
    delay(page, 1500)
    wait_until("a request has been sent", page.requests)
    for state in "minimize", "maximize", "minimize", "maximize":
        page.browser.call("POST", f"/window/{state}")
    wait_until("a second request has been sent", lambda: len(page.requests()) == 2)
    first, second = page.requests()
    check("whether the second came after the end of the first", len(first) == 2 and second[0] > first[1], True)
    page.browser.run("document.querySelector('button').click()")
    page.wait_for("You are visitor 15")
    wait_until("all responses have arrived", lambda: all(len(times) == 2 for times in page.requests()))
    time.sleep(0.3)
    check("the number after a late total", page.browser.status_text(), "You are visitor 15")
    delay(page, 0)


def delay(page, milliseconds, offline=False):
    page.browser.cdp("Network.emulateNetworkConditions", offline=offline, latency=milliseconds,
                     downloadThroughput=-1, uploadThroughput=-1)


def shows_no_foreign_text(page):
    """What a proxy or a network answers in place of notch: an error that the page shows, a limit of requests that it
    does not show, and pages that it does not take for a number."""
    for status, text, shown in ((429, "too many requests, not counted: try again", "15 visits so far"),
                                (502, "<html><h1>502 Bad Gateway</h1></html>", "no response, retrying"),
                                (200, "<html>Log in to the network</html>", "no response, retrying"),
                                (200, "", "no response, retrying"),
                                (504, "in doubt", "in doubt")):
        page.open("/")
        page.wait_for("15 visits so far")
        page.browser.run(f"isFetched = false; window.realFetch = fetch; window.fetch = async () => {{ isFetched = true;"
                         f" return new Response({json.dumps(text)}, {{status: {status}}}) }}")
        wait_until(f"the page has got {status}", lambda: page.browser.run("return isFetched"))
        page.wait_for(shown)
    page.browser.run("window.fetch = realFetch")
    page.wait_for("15 visits so far")
    delay(page, 0, offline=True)
    page.wait_for("no response, retrying")
    delay(page, 0)
    page.wait_for("15 visits so far")


def keeps_the_message_of_a_visit_in_doubt(page, redis):
    """A visit that may have been counted is not replaced by a total; one that was not counted is."""
    lost = "no response: this visit may have been counted"
    for answer, shown, is_kept in (("new Response('not counted', {status: 503})", "not counted", False),
                                   ("new Response('do not repeat it', {status: 504})", "do not repeat it", True),
                                   ("new Response('<h1>502 Bad Gateway</h1>', {status: 502})", lost, True),
                                   ("Promise.reject()", lost, True)):
        page.open("/")
        page.browser.run(f"window.realFetch = fetch; window.fetch = async () => {answer}")
        page.browser.press()
        page.wait_for(shown)
        page.browser.run("window.fetch = realFetch")
        stays_or_recovers(page, shown, is_kept)
        page.browser.press()
        page.wait_for(f"You are visitor {fetch_text(page.site + '/total')}")
    redis.send_signal(signal.SIGSTOP)
    page.open("/count")
    redis.send_signal(signal.SIGCONT)
    wait_until("notch counts again", lambda: not is_unavailable(page.site + "/total"))
    shown = "this visit may have been counted, do not repeat it: the store did not reply in time"
    stays_or_recovers(page, shown, True)


def stays_or_recovers(page, shown, stays):
    """A page tries again 2 to 2.5 s after its first failure."""
    check("the message of a visit", page.browser.status_text(), shown)
    if stays:
        time.sleep(3)
        check("the message of a visit in doubt", (page.browser.status_text(), page.requests()), (shown, []))
    else:
        wait_until("the page recovers", lambda: page.browser.status_text().endswith("visits so far"))


def can_be_turned_off(notch, data, processes, page):
    """With `PAGE_REFRESH=0s`, a page requests nothing."""
    port = free_port()
    processes.start(notch, cwd=data, env={"LISTEN": f"127.0.0.1:{port}", "PAGE_REFRESH": "0s", "FSYNC": "never"})
    page.site = f"http://127.0.0.1:{port}"
    wait_until("notch counts", lambda: fetch_text(page.site + "/total") == "0")
    page.open("/")
    page.visit()
    time.sleep(1.6 * INTERVAL)
    check("requests with PAGE_REFRESH=0s", page.requests(), [])
    check("the total", page.browser.status_text(), "0 visits so far")
