"""The page in a real browser: by mouse and keyboard, on a phone, on paper, for everyone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headstart.comparison.records import Comparison, Row
from headstart.report import write_report
from headstart.report.contenders import compare_rows
from headstart.rundir.run import Run
from tests.browsing import grave, launched, needs_chromium, playwright
from tests.fabricating import fabricate, fail

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def report(pixels: tuple[list[Run], Comparison], tmp_path_factory: Any) -> str:
    runs, comparison = pixels
    folder = tmp_path_factory.mktemp("browser")
    lost = fail(folder / "lost", "lost", "the hub cannot be reached")
    row = Row.without_result("lost", "failed", "the hub cannot be reached", "vgg16", path="lost")
    compared = replace(comparison, rows=(*comparison.rows, row))
    return write_report([*runs, lost], folder / "report.html", compared).as_uri()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: Any) -> str:
    """136 classes, and twelve with names of 100 characters."""
    folder = tmp_path_factory.mktemp("crowded")
    many = [f"{word} character{k:02}" for word in ("Greek", "Korean") for k in range(1, 69)]
    words = ("bark", "bud", "cone", "flower", "fruit", "leaf", "needle", "pod", "root", "seed",
             "stem", "twig")  # fmt: skip
    long = [f"{'a close photograph taken outdoors in summer, ' * 2}{word}" for word in words]
    runs = [
        fabricate(folder / "many", name="many", classes=136, n=544, class_names=many),
        fabricate(folder / "long", name="long" * 20, classes=12, n=240, class_names=long),
    ]
    protocol = {"budget": f"all of {'long' * 20} and more"}
    compared = replace(compare_rows(runs), protocol=protocol)
    return write_report(runs, folder / "report.html", compared).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def opened(browser: Any, report: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened; after the test, nothing was logged and nothing asked of a network."""
    settings = {"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})}
    context = browser.new_context(**settings)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(report)
    yield page
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def ranks(page: Any) -> list[str]:
    found: list[str] = page.locator(".board tbody tr:first-child .rank").all_inner_texts()
    return found


def test_sorting_by_click_takes_the_runs_along_and_failures_last(opened: Any) -> None:
    assert ranks(opened) == ["1", "2", "3", "–"]
    button = opened.get_by_role("button", name="Latency, ms")
    button.click()
    header = opened.locator("th", has=button)
    assert header.get_attribute("aria-sort") == "ascending"
    rising = ranks(opened)
    button.click()
    assert header.get_attribute("aria-sort") == "descending"
    assert ranks(opened) == [*rising[:3][::-1], "–"]
    assert rising == ["3", "2", "1", "–"]
    for body in opened.locator(".board tbody:not([data-last])").all():
        name = body.locator(".named").inner_text()
        members = body.locator(".member th").all_text_contents()
        assert len(members) == 2
        assert all(member.startswith(f"{name}-") for member in members)


def test_sorting_by_keyboard(opened: Any) -> None:
    opened.get_by_role("button", name="Test accuracy").focus()
    opened.keyboard.press("Enter")
    assert ranks(opened) == ["1", "2", "3", "–"]
    opened.keyboard.press("Space")
    assert ranks(opened) == ["3", "2", "1", "–"]


def test_a_configurations_runs_open_on_demand(opened: Any) -> None:
    toggle = opened.locator(".toggle").first
    member = opened.locator(".member").first
    assert not member.is_visible()
    toggle.press("Enter")
    assert toggle.get_attribute("aria-expanded") == "true"
    assert member.is_visible()


def test_a_definition_opens_where_it_is_asked_for(opened: Any) -> None:
    mark = opened.locator("#leaderboard .help").first
    mark.focus()
    opened.keyboard.press("Enter")
    note = opened.locator("#note")
    assert note.is_visible()
    assert "From predictions/test.npz" in note.inner_text()
    box, width = note.bounding_box(), 1280
    assert 8 <= box["x"] <= width - box["width"] - 8
    opened.keyboard.press("Escape")
    assert not note.is_visible()


def test_the_slider_names_the_best_under_a_limit(opened: Any) -> None:
    block = opened.locator(".limit").first
    slider = block.locator("input")
    slider.focus()
    opened.keyboard.press("Home")
    assert "nothing fits" in block.locator("output").inner_text()
    opened.keyboard.press("End")
    last = block.locator("tbody tr").last
    assert last.locator("th").inner_text() in block.locator("output").inner_text()
    assert "fits" in str(last.get_attribute("class"))


def test_a_link_opens_its_run_and_a_class_can_be_picked_out(opened: Any) -> None:
    opened.locator(".toggle").first.click()
    opened.locator(".member a").first.click()
    run = opened.locator("details.run[open]")
    # The page hears of its new address in a later task than the click's.
    playwright.expect(run).to_have_count(1)
    chosen = run.locator(".classes button", has_text="cat")
    chosen.click()
    assert chosen.get_attribute("aria-pressed") == "true"
    assert run.locator("[data-map].picked .dots.on").count() == 1


def unfold(page: Any) -> None:
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.evaluate("for (const b of document.querySelectorAll('.toggle')) b.click()")


def beyond(page: Any, width: int) -> list[str]:
    """What reaches over the right edge and cannot be scrolled to in a box of its own."""
    found: list[str] = page.evaluate(
        "(width) => [...document.querySelectorAll('main *, header *')]"
        ".filter((e) => !e.closest('.scroll, pre, svg, .hidden, #note'))"
        ".filter((e) => e.getBoundingClientRect().right > width + 0.5)"
        ".map((e) => e.outerHTML.slice(0, 90))",
        width,
    )
    return found


@pytest.mark.parametrize(
    "opened", [{"viewport": {"width": 360, "height": 740}, "is_mobile": True}], indirect=True
)
def test_no_sideways_scrolling_on_a_phone(opened: Any) -> None:
    unfold(opened)
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    assert beyond(opened, 360) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_many_classes_and_long_names_keep_to_their_room(
    browser: Any, crowded: str, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(crowded)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert beyond(page, width) == []
    # Every count of the matrix of twelve can be seen at once on a screen that is wide enough.
    box = page.locator(".scroll:has(> .matrix)").bounding_box()
    cells = page.locator(".matrix tbody tr").first.locator("td").all()
    seen = [c for c in cells if c.bounding_box()["x"] < box["x"] + box["width"] - 20]
    assert len(cells) == 12
    assert len(seen) >= (12 if width == 1280 else 4)
    # What a reader sees of a caption is all of it, and tells its class.
    for run in page.locator("details.run").all():
        captions = run.locator(".true").evaluate_all(
            "(all) => all.map((e) => [e.innerText, e.scrollWidth <= e.clientWidth + 1])"
        )
        assert all(whole for _, whole in captions)
        classes = run.locator(".pictures svg").evaluate_all(
            "(all) => all.map((e) => e.ariaLabel.match(/: a (.*?)( recognised| taken for|$)/)[1])"
        )
        pairs = set(zip(classes, (text for text, _ in captions), strict=True))
        assert len({c for c, _ in pairs}) == len({text for _, text in pairs}) == len(pairs) >= 12
    assert grave(page) == []
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_two_classes_with_unbroken_names_keep_to_their_room(
    browser: Any, tmp_path: Path, width: int
) -> None:
    names = [("unbroken_" * 12)[:98] + ending for ending in "ab"]
    run = fabricate(tmp_path / "two", name="two", classes=2, n=49, class_names=names)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(write_report([run], tmp_path / "report.html").as_uri())
    unfold(page)
    assert page.locator("#two-classes .intro").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert beyond(page, width) == []
    page.close()


def test_a_list_of_wrong_answers_can_be_copied(browser: Any, crowded: str) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(crowded)
    run = page.locator("details.run").first
    run.evaluate("(e) => { e.open = true; }")
    files = run.locator(".files", has_text="wrong answers as a list")
    files.locator("summary").click()
    files.get_by_role("button", name="Copy").click()
    playwright.expect(files.locator("button")).not_to_have_text("Copy")
    listed = files.locator("code").inner_text().splitlines()
    assert len(listed) > 12
    assert all(line.startswith("test-") for line in listed[1:])
    assert {line.count("\t") for line in listed} == {3}
    context.close()


def test_paper_shows_everything(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    opened.pdf(path=path)
    content = path.read_bytes()
    assert content.startswith(b"%PDF")
    opened.set_viewport_size({"width": 688, "height": 1000})  # A4 less its margins
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("details:not([open])").count() == 0
    assert opened.locator(".member").first.is_visible()
    hidden = opened.evaluate(
        "[...document.querySelectorAll('.scroll, pre')].filter((e) => getComputedStyle(e).overflowX"
        " !== 'visible').length"
    )
    assert hidden == 0
    assert opened.evaluate("document.documentElement.scrollWidth") <= 688
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("details.run[open]").count() == 0


@pytest.mark.parametrize(
    "opened",
    [{"color_scheme": "light"}, {"color_scheme": "dark"},
     {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}}],
    indirect=True, ids=["light", "dark", "phone"],
)  # fmt: skip
def test_axe_finds_nothing_serious(opened: Any) -> None:
    opened.evaluate("document.querySelectorAll('details.run')[0].open = true")
    opened.evaluate("document.querySelectorAll('.toggle')[0].click()")
    assert grave(opened) == []


@pytest.mark.parametrize("opened", [{"reduced_motion": "reduce"}], indirect=True)
def test_motion_is_left_out_where_it_is_unwanted(opened: Any) -> None:
    behaviour = opened.evaluate("getComputedStyle(document.documentElement).scrollBehavior")
    assert behaviour == "auto"
    moving = opened.evaluate("document.getAnimations().length")
    assert moving == 0


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_without_its_script_the_page_still_says_everything(opened: Any) -> None:
    assert opened.locator(".member").first.is_visible()
    assert not opened.locator(".slide").first.is_visible()
    opened.locator("#leaderboard .help").first.click()
    assert opened.url.endswith("#def-accuracy")
