"""Pages: everything is escaped, nothing is loaded, a phone need not scroll sideways, and files are written whole."""

import base64
import io
import json
import math
import os
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganaug.charts import WIDTH, bars_svg, lines_svg, number, ticks
from ganaug.errors import UserInputError
from ganaug.page import Page, check_folder
from ganaug.synthetic import SYNTHETIC_TAG

NASTY = "<script>alert(\"1\")</script> & 'x'"


class Balanced(HTMLParser):
    """Complains about tags that are closed in another order than opened; collects names, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def full_page() -> Page:
    page = Page(NASTY, NASTY)
    page.heading(NASTY)
    page.heading(NASTY, 3)
    page.text(f"{NASTY}\n\n{'long' * 60}")
    page.warning(NASTY)
    page.table([NASTY, "figure"], [[NASTY, 0.5], [f"{'wide' * 30} {'words ' * 30}", None]], NASTY)
    page.table([f"column {n}" for n in range(30)], [[f"row {n}", *range(29)] for n in range(3)])
    page.picture(np.full((60, 900, 3), 7, np.uint8), NASTY, NASTY)
    page.bars([NASTY, "b"], [0.5, -0.2], NASTY, [(0.4, 0.6), None])
    page.lines({NASTY: [(0.0, 1.0), (1.0, 0.5)]}, NASTY, NASTY, NASTY)
    page.heading("second")
    page.heading("third")
    return page


def test_texts_are_escaped_and_tags_are_balanced() -> None:
    """No script comes in by any door, and nothing is addressed but the page itself and what lies in it."""
    parsed = Balanced(full_page().html())
    names = {name for name, _ in parsed.tags}
    assert not names & {"script", "iframe", "object", "form", "base"}
    assert sum(NASTY in words for words in parsed.words) >= 10
    assert [a["alt"] for tag, a in parsed.tags if tag == "img"] == [NASTY]
    assert [a["aria-label"] for tag, a in parsed.tags if tag == "svg" and "aria-label" in a] == [NASTY, NASTY]
    for _, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in full_page().html() and "@import" not in full_page().html()


def test_contents_are_listed_from_three_sections_on() -> None:
    page = Page("t")
    page.heading("a")
    page.heading("b")
    assert "<nav" not in page.html()
    page.heading("c")
    links = [a["href"] for tag, a in Balanced(page.html()).tags if tag == "a"]
    assert links == ["#s0", "#s1", "#s2"]
    assert [a["id"] for tag, a in Balanced(page.html()).tags if tag == "h2"] == ["s0", "s1", "s2"]
    with pytest.raises(ValueError, match="level must be 2 or 3, got 1"):
        page.heading("d", 1)


@pytest.mark.parametrize(
    ("cells", "is_right"),
    [
        ([1, 0.5, None, math.nan], True),
        (["0.91 (0.88 to 0.93)", "-0.2 (-0.3 to -0.1)", ""], True),
        (["93 % (91 to 95)", "99.5 % (98 to 100)"], True),
        (["3 of 20", "+2.30 *", "(-0.01)", "7.3e-04"], True),
        ([1, "many"], False),
        ([True, False], False),
        (["12.jpg"], False),
    ],
)
def test_columns_of_figures_are_right_aligned(cells: list[str | float | None], is_right: bool) -> None:
    page = Page("t")
    page.table(["name", "x"], [["row", cell] for cell in cells])
    heads = [a for tag, a in Balanced(page.html()).tags if tag == "th" and a.get("scope") == "col"]
    assert [head.get("class") for head in heads] == [None, "n" if is_right else None]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        Page("t").table(["a", "b"], [[1]])


def pictures_of(page: Page) -> list[tuple[str, Image.Image]]:
    found = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page.html())
    return [(kind, Image.open(io.BytesIO(base64.b64decode(data)))) for kind, data in found]


def test_pictures_keep_their_pixels_and_their_mark() -> None:
    """A drawing comes back bit for bit; a photo almost; both say who made them when they are saved from the page."""
    page, mark = Page("t"), {"generator": "abc", "edits": ["age"]}
    drawing = np.zeros((8, 6, 3), np.uint8)
    drawing[2:] = 200
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    photo = np.stack([x * 4, y * 5, x + y], axis=-1).astype(np.uint8)
    page.picture(drawing, "a drawing", mark=mark)
    page.picture(Image.fromarray(photo), "a photo", mark=mark)
    (png, first), (jpeg, second) = pictures_of(page)
    assert (png, jpeg) == ("png", "jpeg")
    assert np.array_equal(np.asarray(first), drawing)
    assert np.abs(np.asarray(second).astype(int) - photo).mean() < 2.0
    assert json.loads(first.info[SYNTHETIC_TAG])["generator"] == "abc"
    tag, _, text = second.info["comment"].decode().partition(" ")
    assert tag == SYNTHETIC_TAG and json.loads(text) == {"made_by": "ganaug", **mark}
    assert "personal data" in page.html() and "personal data" not in Page("t").html()


def test_bars_are_as_long_as_their_values() -> None:
    drawn = bars_svg(["a", "b", "c", "d"], [1.0, -1.0, None, 0.25], "chart", [None, None, None, (0.0, 0.5)])
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn)]
    assert widths == pytest.approx([(WIDTH - 4) / 2, (WIDTH - 4) / 2, (WIDTH - 4) / 8], abs=0.06)
    starts = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', drawn)]
    assert starts == pytest.approx([WIDTH / 2, 2, WIDTH / 2], abs=0.06)
    assert "not known" in drawn
    span = re.findall(r'class="span" d="M([\d.]+) \d+H([\d.]+)', drawn)[0]
    assert [float(end) for end in span] == pytest.approx([WIDTH / 2, WIDTH / 2 + (WIDTH - 4) / 4], abs=0.06)
    with pytest.raises(ValueError, match="2 names, 1 values"):
        bars_svg(["a", "b"], [1.0], "chart")


def test_lines_put_points_at_their_places_and_leave_gaps() -> None:
    drawn = lines_svg({"a": [(0.0, 0.0), (1.0, 1.0)], "b": [(0.0, 1.0), (0.5, math.nan), (1.0, 0.0)]}, "x", "y", "l")
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (left, bottom), (right, top) = dots[:2]
    assert left < right and top < bottom  # up is up
    assert dots[2:] == [(left, top), (right, bottom)]
    paths = re.findall(r'<g class="line[^>]*><title>\w</title><path d="([^"]*)"', drawn)
    assert paths[0].count("M") == 1 and paths[1].count("M") == 2
    assert "no figures" in lines_svg({"a": []}, "x", "y", "l")
    assert lines_svg({"a": [(1.0, 3.0)]}, "x", "y", "l").count("<circle") == 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.31, 0.02), (3.0, 3.0), (0.0, 0.0), (812.0, 90321.0)])
def test_ticks_are_round_and_hold_the_range(low: float, high: float) -> None:
    marks = ticks(low, high)
    steps = np.diff(marks)
    assert marks[0] <= low and marks[-1] >= high and 3 <= len(marks) <= 9
    assert np.allclose(steps, steps[0])
    assert float(f"{steps[0]:.0e}"[0]) in (1, 2, 5)


def test_numbers_have_as_many_digits_as_mean_something() -> None:
    assert [number(v) for v in (0.5, 99.5, 1e6, 2e-5, -0.5, None, math.inf)] == [
        "0.500", "99.50", "1000000", "2.0e-05", "-0.500", "-", "-",
    ]  # fmt: skip


def test_pages_are_written_whole_for_their_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "page.html"
    assert Page("one").write(path) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    page = Page("two")
    page.text("a\udcffb")  # a file's name need not be UTF-8
    with monkeypatch.context() as patch:
        patch.setattr(Page, "html", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            page.write(path)
    assert path.read_text() == before
    page.write(path)
    assert "a?b" in path.read_text() and sorted(p.name for p in path.parent.iterdir()) == ["page.html"]


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "deep")
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "in it"):
        with pytest.raises(UserInputError, match="file' is a file; give a folder"):
            check_folder(path)
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            check_folder(tmp_path)


def test_a_browser_loads_nothing_and_a_phone_need_not_scroll_sideways(browser: Any, tmp_path: Path) -> None:
    """Offline, in light and in dark, on a phone and on a screen."""
    path = full_page().write(tmp_path / "page.html")
    backs = set()
    for width, scheme in ((390, "light"), (390, "dark"), (1280, "light")):
        with browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True
        ) as context:
            tab = context.new_page()
            asked: list[str] = []
            complaints: list[str] = []
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.on("console", lambda message, told=complaints: told.append(message.text))
            tab.goto(path.as_uri())
            assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
            assert complaints == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert tab.evaluate("parseFloat(getComputedStyle(document.querySelector('p')).fontSize)") >= 16
            backs.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backs) == 2  # light and dark differ
