"""The study's page in a real browser: clicks, keys, touch, reloads, two raters, and a server that is killed."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from study_helpers import TOTAL, right_choice, wrong_choice
from study_helpers import made_study as made_study
from study_helpers import study as study

from ganaug.study.scores import score_study
from ganaug.study.server import build_app, listen
from ganaug.study.store import Store

for extra in ("fastapi", "uvicorn"):
    pytest.importorskip(extra, reason="needs what `ganaug study serve` needs: pip install 'ganaug[study]'")


class Server:
    """``ganaug study serve`` in a process of its own."""

    def __init__(self, study: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "ganaug.cli", "study", "serve", str(study), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self.links: list[str] = []
        while "one link" not in (line := self.process.stdout.readline()):
            assert line, "the server has ended"
            self.links.append(line.split(": ", 1)[1].strip())
        self.origin, _, _ = self.links[0].partition("/#t=")
        self.port = int(self.origin.rpartition(":")[2])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        """Ends the server as Ctrl-C does; all that it printed after the links."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=10)[0]


class InProcess:
    """The same server in a thread: it starts in no time, but cannot be killed."""

    def __init__(self, study: Path) -> None:
        import uvicorn

        self.store = Store(study)
        listener = listen("127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.links = [f"{self.origin}/#t={token}" for token in self.store.tokens().values()]
        app = build_app(self.store)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(5)
        self.store.close()


@pytest.fixture
def server(study: Path) -> Iterator[InProcess]:
    server = InProcess(study)
    yield server
    server.stop()


@pytest.fixture
def process(study: Path) -> Iterator[Server]:
    server = Server(study)
    yield server
    server.kill()


SCRIPT = (resources.files("ganaug.study") / "static/study.js").read_text()
WAITS = "WAITS_MS = [300, 600, 1000, 2000, 3000];"
assert "LEAST_MS = 400;" in SCRIPT and WAITS in SCRIPT


# Looks at every frame: wait_for_selector looks ever more rarely, which is most of what these tests would take.
READY = """new Promise((done, fail) => {
  const late = performance.now() + 10000;
  const look = () => {
    if (!document.getElementById("intro").hidden) return done(document.getElementById("intro-title").textContent);
    const button = document.getElementById("answer-left");
    if (button.offsetParent && button.getAttribute("aria-disabled") === "false") return done(null);
    if (performance.now() > late) return fail(new Error("no pair can be answered"));
    requestAnimationFrame(look);
  };
  look();
})"""


class Visit:
    """A rater's window, which notes what it asks for and what goes wrong in it.

    Pictures must be looked at for ``least_ms`` before an answer counts, and a server that is away is soon asked again:
    all is as people have it, but faster.
    """

    def __init__(self, browser: Any, link: str, least_ms: int = 40, **options: Any) -> None:
        self.context = browser.new_context(**options)
        script = SCRIPT.replace("LEAST_MS = 400;", f"LEAST_MS = {least_ms};").replace(WAITS, "WAITS_MS = [50, 100];")
        self.context.route("**/study.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.requests: list[Any] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.goto(link)
        self.page.wait_for_selector("main > section:visible")

    def agree(self) -> None:
        self.page.get_by_label("I have read this").check()
        self.page.get_by_role("button", name="Begin").click()
        self.page.wait_for_selector("#intro:visible")

    def begin(self) -> None:
        self.agree()
        self.page.get_by_role("button", name="Start").click()

    def count(self) -> str:
        return str(self.page.locator("#count").inner_text())

    def ready(self) -> str | None:
        """Waits until a pair can be answered; goes on where a task is explained first, and says which."""
        explained = self.page.evaluate(READY)
        if explained is not None:
            self.page.locator("#start").click()
            self.page.evaluate(READY)
        return None if explained is None else str(explained)


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    opened: list[Visit] = []

    def open_page(link: str, **options: Any) -> Visit:
        opened.append(Visit(browser, link, **options))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


def answers(study: Path, rater: int = 1) -> list[dict[str, Any]]:
    store = Store(study)
    found = [row for row in store.answers() if row["rater"] == rater]
    store.close()
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


BUTTON = {"left": "#answer-left", "right": "#answer-right", "same": "#answer-left", "different": "#answer-right"}


def test_a_whole_study_by_clicks(study: Path, process: Server, visit: Callable[..., Visit]) -> None:
    """Consent, both tasks with their explanations, thanks; nothing is asked of others, and no request has the token."""
    rater = visit(process.links[0])
    page = rater.page
    wait_for(lambda: page.url == f"{process.origin}/")
    assert page.get_by_role("button", name="Begin").is_visible()
    assert "Taking part is voluntary" in page.inner_text("main")
    page.get_by_role("button", name="Begin").click()
    assert page.locator("#consent").is_visible(), "not without the tick"
    rater.agree()
    store = Store(study)
    wrong = {1, 2, 9}
    explained = []
    for place in range(TOTAL):
        explained.append(rater.ready())
        assert rater.count() == f"{place + 1} of {TOTAL}"
        choice = (wrong_choice if place in wrong else right_choice)(store, 1, place)
        if place % 4 == 3 and choice in ("left", "right"):
            page.locator(f"#{choice}").click()  # the picture itself
        else:
            page.locator(BUTTON[choice]).click()
    page.wait_for_selector("text=Thank you!")
    assert explained == ["Real or generated?", *5 * [None], "Same person?", *5 * [None]]
    assert [row["choice"] != row["answer"] for row in store.answers()] == [place in wrong for place in range(TOTAL)]
    assert all(40 <= row["ms"] < 5000 and row["views"] == 1 for row in store.answers())
    assert score_study(store, 1)["raters"][0]["state"] == "finished"
    token = store.tokens()[1]
    store.close()
    assert rater.errors == [] and len(rater.requests) > 3 * TOTAL
    assert all(request.url.startswith((f"{process.origin}/", "blob:")) for request in rater.requests)
    assert not any(token in request.url.partition("#")[0] for request in rater.requests)
    assert not any(token in request.headers.get("referer", "") for request in rater.requests)
    assert not rater.context.cookies()
    assert process.log().split() == ["answers", str(TOTAL)], "no log of who asked for what"


def test_keys(study: Path, server: InProcess, visit: Callable[..., Visit]) -> None:
    rater = visit(server.links[0])
    page = rater.page
    page.get_by_label("I have read this").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_selector("#intro:visible")
    page.keyboard.press("Enter")
    given = []
    for place, key in enumerate(("f", "ArrowRight", "j", "ArrowLeft", "F", "f")):
        rater.ready()
        if place == 2:
            page.keyboard.press("Control+f")  # the browser's own
            page.keyboard.press("x")
        page.keyboard.press(key)
        wait_for(lambda place=place: len(answers(study)) == place + 1)  # type: ignore[misc]
        given.append("left" if key.lower() in ("f", "arrowleft") else "right")
    store = Store(study)
    swapped = [s for (s,) in store._all("SELECT swapped FROM showings WHERE rater = 1 ORDER BY place")]
    store.close()
    first = [(choice == "left") != bool(s) for choice, s in zip(given, swapped, strict=False)]
    assert [row["choice"] == "first" for row in answers(study)] == first
    rater.ready()  # the other task
    page.keyboard.press("j")
    wait_for(lambda: len(answers(study)) == 7)
    assert answers(study)[-1]["choice"] == "different"


def test_reload_resumes_at_the_same_pair(study: Path, server: InProcess, visit: Callable[..., Visit]) -> None:
    rater = visit(server.links[0])
    rater.begin()
    for _ in range(2):
        rater.ready()
        rater.page.locator("#answer-left").click()
    rater.ready()

    def shown() -> list[str]:
        """The pictures that were asked for last."""
        return [request.url for request in rater.requests if "/api/picture/" in request.url][-2:]

    before = rater.count(), shown()
    rater.page.reload()
    rater.page.get_by_role("button", name="Continue").click()
    rater.ready()
    assert (rater.count(), shown()) == before == (f"3 of {TOTAL}", before[1])
    assert len(rater.requests) > 10 and before[1][0] != before[1][1]
    # The link itself, opened once more, leads there too.
    again = visit(server.links[0])
    again.ready()
    assert again.count() == before[0]
    again.page.locator("#answer-left").click()
    wait_for(lambda: len(answers(study)) == 3)
    # The first window does not know yet; its answer to the same pair does not count, and it goes on.
    rater.page.locator("#answer-right").click()
    wait_for(lambda: rater.count() == f"4 of {TOTAL}")
    assert len(answers(study)) == 3


def test_double_submit_counts_once(study: Path, server: InProcess, visit: Callable[..., Visit]) -> None:
    rater = visit(server.links[0], least_ms=200)
    rater.begin()
    rater.ready()
    rater.page.locator("#answer-left").dblclick()
    wait_for(lambda: rater.count() == f"2 of {TOTAL}")
    rater.ready()
    assert len(answers(study)) == 1, "the second half of a double click answers nothing"
    rater.page.evaluate("for (let i = 0; i < 9; i++) document.getElementById('answer-right').click()")
    rater.ready()
    rater.page.keyboard.down("f")
    for _ in range(5):
        rater.page.keyboard.down("f")  # held
    wait_for(lambda: rater.count() == f"4 of {TOTAL}")
    rater.ready()
    rater.page.keyboard.down("f")  # still held: no answer to the next pair
    assert rater.page.locator("#answer-left").get_attribute("aria-disabled") == "false", "one is still expected"
    assert len(answers(study)) == 3 and rater.count() == f"4 of {TOTAL}"


def test_an_answer_before_the_pictures_were_seen_is_none(
    study: Path, server: InProcess, visit: Callable[..., Visit]
) -> None:
    """As the second half of a slow double click, which falls on the next pair. Here nobody ever looks long enough."""
    rater = visit(server.links[0], least_ms=60_000)
    rater.begin()
    rater.page.wait_for_selector("#pair:not(.covered)")
    for _ in range(2):  # frames
        rater.page.evaluate("new Promise(requestAnimationFrame)")
    rater.page.locator("#right").click()
    rater.page.locator("#answer-left").dispatch_event("click")
    rater.page.keyboard.press("f")
    asked = [request.url for request in rater.requests if "/api/answer" in request.url]
    assert not asked and rater.count() == f"1 of {TOTAL}" and not answers(study)


def test_two_raters_at_once(study: Path, server: InProcess, visit: Callable[..., Visit]) -> None:
    """Also in two windows of one browser, which share everything but the window's own memory."""
    first, second = visit(server.links[0]), visit(server.links[1])
    third = first.context.new_page()
    third.goto(server.links[2])
    third.wait_for_selector("#consent:visible")
    first.page.bring_to_front()
    for rater in (first, second):
        rater.begin()
    for number in range(3):
        for rater, button in ((first, "#answer-left"), (second, "#answer-right")):
            rater.ready()
            rater.page.locator(button).click()
        if number == 1:
            first.page.reload()
    wait_for(lambda: len(answers(study, 1)) == len(answers(study, 2)) == 3)
    assert third.locator("#consent").is_visible() and not answers(study, 3)
    store = Store(study)
    orders = [store._all("SELECT trial FROM showings WHERE rater = ? ORDER BY place", (r,)) for r in (1, 2)]
    given = store._all(
        "SELECT rater, (choice = 'first') != swapped FROM answers NATURAL JOIN showings ORDER BY rater, place"
    )
    store.close()
    assert orders[0] != orders[1]
    assert given == [(1, 1)] * 3 + [(2, 0)] * 3, "left is left for each"


def test_killed_server_loses_no_answer(study: Path, process: Server, visit: Callable[..., Visit]) -> None:
    rater = visit(process.links[0])
    page = rater.page
    rater.begin()
    rater.ready()
    page.locator("#answer-left").click()
    wait_for(lambda: rater.count() == f"2 of {TOTAL}")
    rater.ready()
    process.kill()
    assert len(answers(study)) == 1, "what was acknowledged is there"
    page.locator("#answer-right").click()
    page.wait_for_selector("#status.waiting:has-text('not saved yet')")
    page.keyboard.press("f")  # no second answer meanwhile
    revived = Server(study, process.port)
    try:
        wait_for(lambda: rater.count() == f"3 of {TOTAL}", 10)
        assert len(answers(study)) == 2 and page.inner_text("#status") == ""
    finally:
        revived.kill()


def test_a_reload_brings_an_answer_that_nobody_has_yet(
    study: Path, server: InProcess, visit: Callable[..., Visit]
) -> None:
    rater = visit(server.links[0])
    rater.begin()
    rater.ready()
    rater.page.route("**/api/answer", lambda route: route.abort())
    rater.page.locator("#answer-left").click()
    rater.page.wait_for_selector("#status.waiting:has-text('not saved yet')")
    assert not answers(study)
    rater.page.unroute("**/api/answer")
    rater.page.reload()
    assert rater.ready() == "Real or generated?"
    assert rater.count() == f"2 of {TOTAL}" and len(answers(study)) == 1


def test_an_acknowledgement_that_is_lost_is_asked_for_again(
    study: Path, server: InProcess, visit: Callable[..., Visit]
) -> None:
    """The server stores the answer, but the page never hears of it: its retry counts as the same answer."""
    rater = visit(server.links[0])
    rater.begin()
    rater.ready()
    lost: list[int] = []

    def deaf(route: Any) -> None:
        if len(lost) < 2:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    rater.page.route("**/api/answer", deaf)
    rater.page.locator("#answer-left").click()
    wait_for(lambda: rater.count() == f"2 of {TOTAL}")
    assert lost == [200, 200] and len(answers(study)) == 1


def test_withdrawal(study: Path, server: InProcess, visit: Callable[..., Visit]) -> None:
    rater = visit(server.links[0])
    page = rater.page
    rater.begin()
    rater.ready()
    page.locator("#answer-left").click()
    rater.ready()
    page.get_by_role("button", name="Withdraw and erase my answers").click()
    assert page.evaluate("document.activeElement.id") == "stay", "the harmless one has the focus"
    page.keyboard.press("f")  # behind the question, nothing is answered
    page.get_by_role("button", name="Keep my answers").click()
    assert len(answers(study)) == 1
    page.get_by_role("button", name="Withdraw and erase my answers").click()
    page.get_by_role("button", name="Withdraw and erase", exact=True).click()
    page.wait_for_selector("text=You have withdrawn")
    assert not answers(study)
    page.reload()
    page.wait_for_selector("text=You have withdrawn")


def test_unknown_links(server: InProcess, visit: Callable[..., Visit]) -> None:
    for link in (f"{server.origin}/", f"{server.origin}/#t=somebody"):
        rater = visit(link)
        rater.page.wait_for_selector("text=This link is not known")
    rater.page.goto(server.links[0])  # in the same tab, where the address differs behind the # alone
    rater.page.wait_for_selector("#consent:visible")


SIZES = {  # width, height, scheme
    "phone": (390, 844, "light"),
    "a screen at 200 %": (640, 400, "dark"),
    "screen": (1280, 800, "light"),
}


def test_every_size_by_touch_and_to_the_eye(study: Path, server: InProcess, visit: Callable[..., Visit]) -> None:
    """Nothing lies outside the window's width; what is to be touched is large; text has contrast; focus can be seen."""
    rater = visit(server.links[0], has_touch=True, is_mobile=True, device_scale_factor=2, reduced_motion="reduce")
    page = rater.page

    def look(part: str, texts: str) -> None:
        for name, (width, height, scheme) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (part, name)
            sizes = page.evaluate(
                "[...document.querySelectorAll('button, label.check')]"
                ".filter(e => e.offsetParent).map(e => [e.offsetWidth, e.offsetHeight])"
            )
            assert sizes and all(wide >= 44 <= high for wide, high in sizes), "WCAG 2.2, success criterion 2.5.5"
            check_contrast(page, texts)
            if folder := os.environ.get("GANAUG_SCREENSHOTS"):
                page.screenshot(path=f"{folder}/{part}-{width}.png")

    page.wait_for_selector("#consent:visible")
    look("consent", "#consent p, #consent h1, #consent button")
    rater.agree()
    look("intro", "#intro p, #intro button, #count, #withdraw")
    assert page.evaluate("document.activeElement.id") == "intro-title", "a screen reader begins there"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    rater.ready()
    look("trial", "#trial h1, .answers button, #withdraw")
    for width, height, _ in SIZES.values():
        page.set_viewport_size({"width": width, "height": height})
        left, right = (page.locator(f"#{side}").bounding_box() for side in ("left", "right"))
        assert left["y"] == right["y"] and left["width"] == right["width"] >= 140
        assert left["x"] + left["width"] < right["x"]
    named = page.evaluate(
        "[...document.querySelectorAll('button, input, img, progress')].map(e => e.labels?.length || \
        e.textContent.trim() || e.alt || e.id)"
    )
    assert all(named), "everything has a name"
    page.locator("#right").tap()
    rater.ready()
    page.locator("#answer-left").tap()
    wait_for(lambda: len(answers(study)) == 2)


def check_contrast(page: Any, selector: str) -> None:
    """At least 4.5 : 1 between text and what is behind it (WCAG 2.2, success criterion 1.4.3)."""
    found = page.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].filter(e => e.offsetParent).map(e => {
          const color = (of) => getComputedStyle(of).backgroundColor;
          let behind = e;
          while (behind !== document.body && color(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
          return [e.textContent.trim(), getComputedStyle(e).color, color(behind)];
        })""",
        selector,
    )
    assert found
    for text, ink, paper in found:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ink, paper)


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(...)`` (WCAG 2.2)."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_timed_pictures_are_covered(study: Path, visit: Callable[..., Visit]) -> None:
    db = sqlite3.connect(study / "study.sqlite")
    db.execute("UPDATE meta SET value = '300' WHERE name = 'exposure_ms'")
    db.commit()
    db.close()
    server = InProcess(study)
    try:
        rater = visit(server.links[0])
        rater.agree()
        assert "for 0.3 seconds only" in rater.page.inner_text("#intro")
        rater.ready()
        assert rater.page.locator("#left").is_visible()
        rater.page.wait_for_selector("#pair.covered")
        assert not rater.page.locator("#left").is_visible() and not rater.page.locator("#right").is_visible()
        rater.page.locator("#answer-left").click()
        rater.ready()
        assert rater.page.locator("#left").is_visible() and rater.count() == f"2 of {TOTAL}"
        (given,) = answers(study)
        assert given["ms"] >= 300
    finally:
        server.stop()
