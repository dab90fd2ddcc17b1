"""The page of an audit in a real browser: decisions by keyboard, and names that are hostile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headstart.auditing.fixing import read_decisions, write_manifest
from headstart.auditing.page import render, write_page
from headstart.auditing.records import Audit, Foreign, Picture, Suspect
from tests.browsing import grave, launched, needs_chromium

HOSTILE = ('a"b', "<img src=x onerror=alert(1)>", "=HYPER()", "o'clock")


@pytest.fixture
def hostile(tmp_path: Path) -> Audit:
    """An audit of three pictures with names that would be markup, cells or lines."""
    root = tmp_path / "photos"
    paths = [f"{HOSTILE[0]}/1, 2.png", f"{HOSTILE[1]}/new\nline.png", f"{HOSTILE[2]}/3.png"]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (80 * number, 90, 120)).save(root / path)
    pictures = tuple(Picture(path, path.split("/")[0], "") for path in paths)
    suspects = (
        Suspect(paths[0], HOSTILE[0], HOSTILE[1], 0.9),
        Suspect(paths[1], HOSTILE[1], HOSTILE[2], 0.8),
        Suspect(paths[2], HOSTILE[2], HOSTILE[0], 0.7),
    )
    foreign = (Foreign(paths[0], HOSTILE[0], 2.5),)
    return Audit(str(root), "net", HOSTILE[:3], pictures, suspects, (), (), foreign, (), (),
                 ("<b>wrong</b>",), ())  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@needs_chromium
def test_decisions_are_made_by_keyboard_and_come_back(
    hostile: Audit, browser: Any, tmp_path: Path
) -> None:
    path = write_page(hostile, tmp_path / "page.html")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
    page.goto(path.as_uri())
    assert page.locator("fieldset").count() == 4 and page.locator("b b, img[src=x]").count() == 0
    assert page.locator("#download").is_disabled()
    page.locator("fieldset input").first.focus()
    page.keyboard.press("r")  # relabel the first, and go on
    page.keyboard.press("Space")  # keep the second
    page.keyboard.press("x")  # no: remove it
    page.keyboard.press("r")
    assert "3 of 3" in page.locator("#state").inner_text()
    shown = page.locator("#foreign input:checked")  # the first picture, at its second place
    assert shown.count() == 0  # there is no other class to choose there
    assert page.locator("#foreign fieldset").get_attribute("data-decided") == "relabel"
    with page.expect_download() as waiting:
        page.locator("#download").press("Enter")
    table = tmp_path / "decisions.csv"
    waiting.value.save_as(table)
    assert waiting.value.suggested_filename == "decisions.csv"
    assert grave(page) == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
    assert said == []
    first, second, third = (picture.path for picture in hostile.pictures)
    assert read_decisions(table, hostile) == {
        first: ("relabel", HOSTILE[1]),
        second: ("remove", HOSTILE[1]),
        third: ("relabel", HOSTILE[0]),
    }
    assert write_manifest(hostile, tmp_path / "m.csv", read_decisions(table, hostile)) == 2


def test_equal_audits_give_equal_pages(hostile: Audit) -> None:
    text = render(hostile)
    assert text == render(hostile)
    assert "<img src=x" not in text and "<b>wrong" not in text
