"""The pages of the service, from a real server and in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.altering import altered
from tests.browsing import grave, launched, needs_chromium
from tests.opened_page import Opened
from tests.page_pictures import PICTURES, encoded, photo
from tests.serving import Server, served, until

pytestmark = needs_chromium
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
RUNS = "document.title = 'it ran'"  # no text of others may do this
HOSTILE = [
    f"<script>{RUNS}</script>", f'<img src=x onerror="{RUNS}">', "a&amp;b", '"quoted" it\'s',
    "right\u202eleft", "an_unbroken_name_" * 6, *(f"class {k}" for k in range(4)),
]  # fmt: skip
CARD = f"""# A card

<img src=x onerror="{RUNS}"> and **bold**, `code`, [a link](javascript:{RUNS})

| score | value |
| --- | ---: |
| accuracy | 90 % |

- one
- two

```sh
headstart <b>predict</b>
```
"""
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def bundles(published: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """exported; hostile, which is sure of nothing; tags, of several labels."""
    folder = tmp_path_factory.mktemp("altered")
    hostile = altered(
        published, folder / "a", CARD, name="hostile", class_names=HOSTILE, threshold=0.999
    )
    thresholds = [0.01] * 3 + [0.9999] * 7
    several: dict[str, Any] = {
        "name": "tags",
        "thresholds": thresholds,
        "scores": None,
        "validation": None,
    }
    tags = altered(published, folder / "b", **several)
    return [published, hostile, tags]


@pytest.fixture(scope="module")
def server(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("serving"), *bundles) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(*CAMERA) as found:
        yield found


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens pages of a server; after the test, nothing was asked of another one, and nothing was
    logged but refusals of the server, where the test says that there are some."""
    contexts: list[Any] = []
    said: list[str] = []
    asked: set[tuple[str, str]] = set()

    def open_page(
        server: Server, path: str = "/", refused: bool = False, **settings: Any
    ) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()

        def note(text: str) -> None:
            if not (refused and text.startswith("Failed to load resource")):
                said.append(text)

        page.on("console", lambda message: note(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: asked.add((server.address, sent.url)))
        page.goto(server.address + path)
        if path == "/" and not refused:
            page.locator("body[data-state=ready]").wait_for()
        return Opened(page)

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    own = ("blob:", "data:image/png;")
    assert [url for address, url in asked if not url.startswith((address + "/", *own))] == []


def told(server: Server, content: bytes, model: str = "exported") -> dict[str, Any]:
    """What the service itself says of a picture."""
    reply = server.ask(f"/v1/predict?top=10&model={model}", content)
    assert reply.status == 200, reply.content
    found: dict[str, Any] = reply.content["answers"][0]
    return found


def by_label(answer: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in answer["top"]}


def choose(page: Any, content: bytes, name: str = "photo.png", answers: int = 1) -> Any:
    """Ask about a picture, and wait for so many answers."""
    page.locator("#chosen").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )
    found = page.locator(".answer:not(.waiting)")
    found.nth(answers - 1).wait_for()
    return found


def test_pictures_are_answered_as_the_service_answers_them(
    server: Server, opened: Callable[..., Opened], tmp_path: Path
) -> None:
    page = opened(server)
    for name in ("turned-6.jpg", "clear.png", "deep.png", "cmyk.jpg", "panorama.png", "eighth.jpg"):
        path = tmp_path / name
        path.write_bytes(PICTURES[name]())
        assert page.ask(path) == by_label(told(server, path.read_bytes())), name
    photos = {"a.png": encoded(photo(60, 40), "PNG"), "b.png": encoded(photo(33, 47), "PNG")}
    for event in ("drop", "paste"):
        for name, content in photos.items():
            page.hand_over(event, {name: content})
            assert page.answer() == by_label(told(server, content)), (event, name)
    page.hand_over("drop", photos)
    page.page.locator(".answer:not(.waiting)").nth(1).wait_for()
    assert page.page.locator(".answer .file").all_inner_texts() == ["b.png", "a.png"]


def test_what_the_browser_cannot_draw_is_answered(
    server: Server, opened: Callable[..., Opened]
) -> None:
    page, content = opened(server).page, encoded(photo(), "TIFF")
    answer = choose(page, content, "scan.tif").first
    assert answer.locator(".there .name").inner_text() == told(server, content)["label"]
    answer.get_by_text("cannot show it").wait_for()
    shown = choose(page, PICTURES["turned-6.jpg"](), "photo.jpg", 2).first.locator(".seen img")
    assert shown.evaluate("async (i) => { await i.decode(); return i.naturalWidth; }") == 60


def test_what_is_no_picture_gets_the_words_of_the_service(
    server: Server, opened: Callable[..., Opened]
) -> None:
    page = opened(server, refused=True)
    page.hand_over("drop", {"notes.txt": b"no picture", "empty.png": b""})
    page.page.locator(".failed").nth(1).wait_for()
    notes = page.page.locator(".failed .note").all_inner_texts()
    detail = server.ask("/v1/predict", b"no picture").content["detail"]
    assert notes[1].lower() == f"{detail.lower()}." and "cannot be read" in notes[0]
    assert page.page.get_by_role("button", name="Ask again").count() == 0
    page.hand_over("paste", {})
    assert "no picture on the clipboard" in page.page.locator("#hint").inner_text()


def test_a_shot_of_the_camera_is_answered(server: Server, opened: Callable[..., Opened]) -> None:
    page = opened(server)
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.locator("#camera[open]").wait_for()
    page.page.locator("#video").evaluate(
        "v => v.videoWidth || new Promise((go) => { v.onplaying = go; })"
    )
    page.page.get_by_role("button", name="Take the picture").click()
    assert page.page.locator(".answer .file").inner_text() == "Photo 1"
    assert sum(page.answer().values()) == pytest.approx(1, abs=1e-5)
    assert page.page.locator("#video").evaluate("v => v.srcObject") is None


def test_below_the_threshold_it_is_not_sure(server: Server, opened: Callable[..., Opened]) -> None:
    page, content = opened(server).page, PICTURES["large.png"]()
    page.locator("#first").select_option("hostile")
    answer, expected = choose(page, content).first, told(server, content, "hostile")
    assert answer.locator("h3").inner_text() == "Not sure"
    note = answer.locator(".note").inner_text()
    assert expected["label"] in note and "reliable from 99.9" in note
    assert "below 99.9" in page.locator("aside").inner_text()


def test_several_labels_are_all_named(server: Server, opened: Callable[..., Opened]) -> None:
    page, content = opened(server).page, PICTURES["large.png"]()
    page.locator("#first").select_option("tags")
    answer, expected = choose(page, content).first, told(server, content, "tags")
    assert len(expected["labels"]) > 1
    assert answer.locator("h3").inner_text() == ", ".join(expected["labels"])
    there = answer.locator(".bars li.there .name").all_text_contents()
    assert there == expected["labels"]
    lefts = answer.locator(".least").evaluate_all("all => all.map((e) => e.style.left)")
    assert sorted(lefts) == ["1%"] * 3 + ["99.99%"] * 7


def test_two_models_answer_side_by_side(server: Server, opened: Callable[..., Opened]) -> None:
    page, content = opened(server).page, PICTURES["large.png"]()
    choose(page, content)
    options = page.locator("#second option").all_inner_texts()
    assert options == ["no other model", "hostile", "tags"]
    page.locator("#second").select_option("hostile")
    answers = page.locator(".pair .answer:not(.waiting)")
    answers.nth(1).wait_for()
    assert answers.locator(".by").all_inner_texts() == ["exported", "hostile"]
    for number, model in enumerate(("exported", "hostile")):
        rows = answers.nth(number).locator(".bars li")
        shares = rows.locator("data").evaluate_all("all => all.map((e) => Number(e.value))")
        names = rows.locator(".name").all_text_contents()
        expected = by_label(told(server, content, model))
        assert shares == list(expected.values())
        assert names == [name.replace("\u202e", "\\u202e") for name in expected]
    left, right = (answers.nth(k).bounding_box() for k in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    page.locator("#second").select_option("")
    assert page.locator(".answer").count() == 1
    assert page.locator("aside h2").all_inner_texts() == ["About this model"]


def test_where_the_model_looked_is_drawn(server: Server, opened: Callable[..., Opened]) -> None:
    page = opened(server, refused=True).page
    answer = choose(page, PICTURES["large.png"]()).first
    look = answer.get_by_role("button", name="Where the model looked")
    look.click()
    heat = answer.locator(".seen canvas")
    heat.wait_for()
    assert look.get_attribute("aria-pressed") == "true"
    coloured = heat.evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        ".filter((v, k, all) => k % 4 === 0 && v > all[k + 2] + 60).length"
    )
    assert coloured > 1000  # of 102,400 pixels, so many are orange
    look.click()
    assert not heat.is_visible() and look.get_attribute("aria-pressed") == "false"
    page.route("**/v1/explain?*", lambda route: route.fulfill(
        status=404, json={"detail": "this model cannot tell"}))  # fmt: skip
    again = choose(page, PICTURES["clear.png"](), answers=2).first
    again.get_by_role("button", name="Where the model looked").click()
    again.get_by_text("this model cannot tell").wait_for()
    assert page.locator(".look").count() == 0


def test_a_busy_service_is_asked_again(server: Server, opened: Callable[..., Opened]) -> None:
    page, content = opened(server, refused=True), PICTURES["large.png"]()
    page.page.locator("body[data-state=ready]").wait_for()
    refusals = iter([1])

    def busy(route: Any) -> None:
        if next(refusals, None):
            route.fulfill(status=429, headers={"retry-after": "1"}, json={"detail": "busy"})
        else:
            route.continue_()

    page.page.route("**/v1/predict?*", busy)
    page.page.locator("#chosen").set_input_files(
        {"name": "photo.png", "mimeType": "image/png", "buffer": content}
    )
    page.page.get_by_text("asking again in 1 s").wait_for()
    assert page.answer() == by_label(told(server, content))


def test_a_service_that_stops_can_be_asked_again(
    server: Server, opened: Callable[..., Opened]
) -> None:
    page = opened(server, refused=True).page
    page.locator("body[data-state=ready]").wait_for()
    page.route("**/v1/predict?*", lambda route: route.abort())
    failed = choose(page, PICTURES["large.png"]()).first
    assert "cannot be reached" in failed.locator(".note").inner_text()
    page.unroute("**/v1/predict?*")
    page.get_by_role("button", name="Ask again").click()
    page.locator(".answer .bars").first.wait_for()
    assert page.locator(".failed").count() == 0


def test_by_keyboard_alone(server: Server, opened: Callable[..., Opened]) -> None:
    page = opened(server).page
    for key in ("Tab", "Enter", "Tab"):
        page.keyboard.press(key)
    assert page.locator(":focus").inner_text() == "Choose pictures"
    # Not the dialog itself, which a browser may withhold while the machine is busy.
    page.evaluate(
        "() => document.getElementById('chosen').addEventListener('click',"
        " (event) => { event.preventDefault(); document.title = 'asked'; })"
    )
    page.keyboard.press("Enter")
    assert page.title() == "asked"
    choose(page, PICTURES["large.png"]())
    reached = []
    while "Where the model looked" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.locator(":focus").inner_text())
        assert len(reached) < 8, reached
    page.keyboard.press("Space")
    page.locator(".seen canvas").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_on_every_screen_and_for_everyone(
    width: int, scheme: str, server: Server, opened: Callable[..., Opened]
) -> None:
    settings = {"viewport": {"width": width, "height": 800}, "is_mobile": width < 500}
    page = opened(server, refused=True, color_scheme=scheme, **settings).page
    page.locator("body[data-state=ready]").wait_for()
    page.locator("#first").select_option("hostile")
    page.locator("#second").select_option("tags")
    choose(page, PICTURES["large.png"](), answers=2)
    page.locator(".answer details summary").first.click()
    page.get_by_role("button", name="Read its model card").first.click()
    page.keyboard.press("Escape")
    page.locator(".look").first.click()
    page.locator(".seen canvas").first.wait_for()
    choose(page, b"x", "x" * 90, answers=4)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert grave(page) == []


def test_texts_of_others_run_nothing(server: Server, opened: Callable[..., Opened]) -> None:
    page = opened(server).page
    page.locator("#first").select_option("hostile")
    answer = choose(page, PICTURES["large.png"](), f'<img src=x onerror="{RUNS}">.png').first
    names = answer.locator(".bars .name").all_text_contents()
    assert set(names) == {"right\\u202eleft", *HOSTILE} - {"right\u202eleft"}
    assert HOSTILE[1] in page.locator("#lead").inner_text()
    page.get_by_role("button", name="Read its model card").click()
    card = page.locator(".card")
    assert card.locator("strong, code, td, li").all_inner_texts() == [
        "bold", "code", "accuracy", "90 %", "one", "two", "headstart <b>predict</b>",
    ]  # fmt: skip
    assert card.locator("img, a, b").count() == 0
    assert "<img src=x" in card.inner_text()
    assert page.locator("script").count() == 1 and page.title() == "hostile"


def test_a_token_is_asked_for_and_kept_in_the_tab(
    published: Path, opened: Callable[..., Opened], tmp_path: Path
) -> None:
    with served(tmp_path, published, environment={"HEADSTART_TOKEN": TOKEN}) as guarded:
        page = opened(guarded, refused=True).page
        dialog = page.get_by_role("dialog")
        for given in ("another-token", TOKEN):
            dialog.get_by_label("Token").fill(given)
            page.keyboard.press("Enter")
            if given != TOKEN:
                dialog.get_by_text("did not accept").wait_for()
        page.locator("body[data-state=ready]").wait_for()
        choose(page, PICTURES["clear.png"]())
        page.reload()
        page.locator("body[data-state=ready]").wait_for()
        assert dialog.count() == 0 and TOKEN not in page.url
        page.goto(f"{guarded.address}/decisions")
        page.get_by_text("No decisions are logged").wait_for()
        page.evaluate("sessionStorage.clear()")
        page.goto(guarded.address)
        dialog.get_by_role("button", name="Cancel").click()
        page.locator("#state", has_text="A token is needed").wait_for()


def test_the_summary_has_the_numbers_of_the_log(
    bundles: list[Path], opened: Callable[..., Opened], tmp_path: Path
) -> None:
    with served(tmp_path, *bundles, log=tmp_path / "log.db") as logging:
        page = opened(logging, "/decisions", viewport={"width": 390, "height": 800}).page
        page.get_by_text("Nothing was answered in the last 24 hours").wait_for()
        content = [PICTURES[name]() for name in ("large.png", "tiny.png", "turned-3.jpg")]
        answers = [told(logging, each, "hostile") for each in content]
        until(lambda: logging.ask("/v1/decisions?model=hostile").content["images"] == len(content))
        page.locator("#model").select_option("hostile")
        page.get_by_text("3 pictures in the last 24 hours").wait_for()
        mean = sum(each["probability"] for each in answers) / len(answers)
        validation = json.loads((bundles[1] / "bundle.json").read_text())["validation"]
        said = page.locator("h2").all_inner_texts()
        assert said[1] == (
            f"Mean confidence {100 * mean:.1f}\u202f% now, "
            f"{100 * validation['mean_probability']:.1f}\u202f% on validation"
        )
        assert said[2].startswith("Not sure: 100.0\u202f% now")
        table = page.locator(".chart").first.locator("tbody td:last-child").all_text_contents()
        assert sum(map(int, table)) == 3
        steps = page.locator(".chart").nth(1).locator("tbody td:nth-child(2)").all_text_contents()
        assert sum(float(step.rstrip("\u202f%")) for step in steps) == pytest.approx(100, abs=0.2)
        names = {"Not sure", *(a["label"].replace("\u202e", "\\u202e") for a in answers)}
        assert names <= set(page.locator(".rows .name").all_text_contents())
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert grave(page) == []
        page.locator("#model").select_option("tags")
        page.get_by_text("Nothing was answered").wait_for()
