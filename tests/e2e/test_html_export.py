"""A run as one HTML file, in a real browser without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as library
from headstart.deployment import web_runtime
from headstart.deployment.export import Exported, Parity, export
from headstart.deployment.html_export import render_page, write_page
from headstart.deployment.web_runtime import WebRuntime, fetch_web_runtime
from headstart.errors import BundleError, DataError, RunError
from headstart.recipe import load_recipe
from headstart.rundir.run import Run, open_run
from headstart.specs import BackboneSpec
from headstart_predict import load
from headstart_predict.bundle import open_bundle, read_golden
from headstart_predict.framing import FRAMINGS
from tests.browsing import grave, launched, needs_chromium
from tests.conftest import Outcome
from tests.fabricating import fabricate
from tests.many import write_many
from tests.opened_page import Opened
from tests.page_pictures import PICTURES
from tests.recipes import recipe_text, write_recipe

pytestmark = needs_chromium
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@dataclass(frozen=True)
class Shipped:
    """A run as a bundle and as a page."""

    bundle: Path
    page: Path
    model: bytes
    runtime: WebRuntime

    def renamed(
        self,
        folder: Path,
        name: str = "tiny",
        classes: list[str] | None = None,
        threshold: float = 0.0,
        framing: str = "crop",
    ) -> Path:
        """The page of the same run with other names, or other squares."""
        run = shutil.copytree(self.page.parent, folder / "run", ignore=_large)
        recipe, manifest = run / "recipe.toml", run / "manifest.json"
        said = recipe.read_text().replace('"tiny"', json.dumps(name), 1)
        assert 'framing = "crop"' in said
        recipe.write_text(said.replace('framing = "crop"', f'framing = "{framing}"'))
        record = json.loads(manifest.read_text())
        data = record["provenance"]["data"]
        data["class_names"] = classes or data["class_names"]
        manifest.write_text(json.dumps(record))
        write_page(folder / "page.html", open_run(run), self.model, threshold, self.runtime)
        return folder / "page.html"

    def framed(self, folder: Path, framing: str) -> tuple[Path, Path]:
        """The page and the bundle of the same run, as if it had seen other squares."""
        page = self.renamed(folder, framing=framing)
        bundle = shutil.copytree(self.bundle, folder / "bundle")
        record = json.loads((bundle / "bundle.json").read_text())
        (bundle / "bundle.json").write_text(json.dumps(record | {"framing": framing}))
        return page, bundle


_large = shutil.ignore_patterns("export", "*.html")


@pytest.fixture(scope="module")
def shipped(
    tmp_path_factory: pytest.TempPathFactory,
    small_backbone: BackboneSpec,
    shared_cache: Path,
    weights_folder: Path,
) -> Iterator[Shipped]:
    folder, kept = tmp_path_factory.mktemp("shipped"), weights_folder.parent / "web"
    kept.mkdir(exist_ok=True)
    if not (shared_cache / "web").exists():
        (shared_cache / "web").symlink_to(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        try:
            runtime = fetch_web_runtime()
        except DataError as error:
            pytest.skip(f"needs npm and its registry: {error}")
        text = recipe_text("tiny", {"train": "head"}, backbone=small_backbone, train=300, test=40)
        recipe = load_recipe(write_recipe(folder, text))
        run = library.run(recipe, out=folder / "run", measure=False)
        bundle = export(run).path
        model = (bundle / "model.onnx").read_bytes()  # torch's exporter takes seconds
        with pytest.MonkeyPatch.context() as once:
            once.setattr("headstart.deployment.export.to_onnx", lambda deployed, side: model)
            page = export(run, form="html").path
        assert page == folder / "run" / "classifier.html"
        yield Shipped(bundle, page, model, runtime)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(*CAMERA) as found:
        yield found


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens pages; after the test, nothing was logged and nothing asked of a network."""
    contexts: list[Any] = []
    said: list[str] = []
    asked: list[str] = []

    def open_page(path: Path, **settings: Any) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(path.as_uri())
        page.locator("body[data-state=ready]").wait_for()
        return Opened(page)

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition(":")[0] for url in asked} == {"file"}


def test_golden_images_are_answered_as_by_the_run(
    shipped: Shipped, opened: Callable[..., Opened]
) -> None:
    page, predictor = opened(shipped.page), load(shipped.bundle)
    golden = read_golden(open_bundle(shipped.bundle))
    scaled = golden.logits / predictor.temperature
    expected = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    for name, row in zip(golden.files, expected, strict=True):
        found = page.ask(shipped.bundle / name)
        assert next(iter(found)) == predictor.class_names[row.argmax()]
        assert [found[each] for each in predictor.class_names] == pytest.approx(row, abs=2e-3)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_any_picture_is_answered_as_by_the_python_predictor(
    framing: str, shipped: Shipped, opened: Callable[..., Opened], tmp_path: Path
) -> None:
    path, bundle = shipped.framed(tmp_path, framing)
    page, predictor = opened(path), load(bundle)
    apart = {}
    for name, content in PICTURES.items():
        path = tmp_path / name
        path.write_bytes(content())
        found, (expected,) = page.ask(path), predictor.predict([path])
        assert found.keys() == expected.probabilities.keys()
        apart[name] = max(abs(found[k] - p) for k, p in expected.probabilities.items())
    assert {name: value for name, value in apart.items() if value > 2e-3} == {}
    lossless = {name: value for name, value in apart.items() if name.endswith(".png")}
    assert max(lossless.values()) < 1e-5


def test_what_is_no_picture_gets_clear_words(
    shipped: Shipped, opened: Callable[..., Opened]
) -> None:
    page = opened(shipped.page)
    page.hand_over("drop", {"notes.txt": b"no picture", "empty.png": b"", "cut.gif": b"GIF89a"})
    page.page.locator(".failed").nth(2).wait_for()
    assert page.page.locator(".failed .file").all_inner_texts() == [
        "cut.gif", "empty.png", "notes.txt",
    ]  # fmt: skip
    cut, empty, notes = page.page.locator(".failed .note").all_inner_texts()
    assert "is not a picture" in notes and "JPEG" in notes
    assert "empty" in empty
    assert "damaged" in cut
    assert "cut.gif: Cannot be read" in page.page.locator("#said").inner_text()
    page.hand_over("paste", {"pasted.txt": b"no picture"})
    page.page.locator(".failed", has_text="pasted.txt").wait_for()
    page.hand_over("drop", {})
    assert "Only files" in page.page.locator("#hint").inner_text()


def test_a_shot_of_the_camera_is_answered(shipped: Shipped, opened: Callable[..., Opened]) -> None:
    page = opened(shipped.page)
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.locator("#camera[open]").wait_for()
    page.page.locator("#video").evaluate(
        "v => v.videoWidth || new Promise((go) => { v.onplaying = go; })"
    )
    page.page.get_by_role("button", name="Take the picture").click()
    assert page.page.locator(".answer .file").inner_text() == "Photo 1"
    assert sum(page.answer().values()) == pytest.approx(1, abs=1e-5)
    assert page.page.locator("#video").evaluate("v => v.srcObject") is None


def test_by_keyboard_alone(shipped: Shipped, opened: Callable[..., Opened]) -> None:
    page = opened(shipped.page).page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Choose pictures"
    # Not the dialog itself, which a browser may withhold while the machine is busy.
    page.evaluate(
        "() => document.getElementById('chosen').addEventListener('click',"
        " (event) => { event.preventDefault(); document.title = 'asked'; })"
    )
    page.keyboard.press("Enter")
    assert page.title() == "asked"


@pytest.mark.parametrize("threshold", [0.0, 0.999, 1.0])
def test_below_the_threshold_it_is_not_sure(
    threshold: float, shipped: Shipped, opened: Callable[..., Opened], tmp_path: Path
) -> None:
    page = opened(shipped.renamed(tmp_path, threshold=threshold)).page
    page.locator("#chosen").set_input_files(shipped.bundle / "golden" / "00.png")
    title = page.locator(".answer:not(.waiting) h3").inner_text()
    assert (title == "Not sure") is (threshold > 0)
    note, card = page.locator(".note").inner_text(), page.locator("aside").inner_text()
    assert ("Perhaps " in note) is (threshold > 0)
    assert {0.0: "never", 0.999: "below 99.9", 1.0: "always"}[threshold] in card


def test_names_are_shown_as_text(
    shipped: Shipped,
    opened: Callable[..., Opened],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hostile = ["<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "a&amp;b",
               """it's "quoted" """, "\u202e", *(f"class {k}" for k in range(5))]  # fmt: skip
    name = """a "run's" <b>name</b>"""
    monkeypatch.setattr(Run, "name", name)  # which a recipe would refuse
    page = opened(shipped.renamed(tmp_path, classes=hostile))
    assert page.page.title() == page.page.locator("h1").inner_text() == name
    assert hostile[0] in page.page.locator(".lead").inner_text()
    found = page.ask(shipped.bundle / "golden" / "00.png")
    assert found.keys() == {"\\u202e", *hostile} - {"\u202e"}
    assert page.page.locator("img, b").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_on_every_screen_and_for_everyone(
    width: int, scheme: str, shipped: Shipped, opened: Callable[..., Opened], tmp_path: Path
) -> None:
    names = [f"{'an_unbroken_name_' * 6}{k}" for k in range(10)]
    path = shipped.renamed(tmp_path, "r" * 80, names, threshold=0.5)
    size = {"width": width, "height": 800}
    page = opened(path, viewport=size, color_scheme=scheme, is_mobile=width < 500).page
    page.locator("#chosen").set_input_files(shipped.bundle / "golden" / "00.png")
    page.locator(".answer details summary").click()
    page.locator("#chosen").set_input_files({"name": "x" * 90, "mimeType": "", "buffer": b"x"})
    page.locator(".failed").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert grave(page) == []


def test_the_page_can_send_nothing(browser: Any, shipped: Shipped) -> None:
    page = browser.new_page()
    page.goto(shipped.page.as_uri())
    for send in ("fetch('https://example.org/')", "import('https://example.org/a.js')",
                 "new Promise((go, no) => Object.assign(new Image(), "
                 "{ onload: go, onerror: no, src: 'https://example.org/a.png' }))"):  # fmt: skip
        refused = page.evaluate(
            "async (send) => { let by = null; addEventListener('securitypolicyviolation', "
            f"(e) => {{ by = e.effectiveDirective; }}); await {send}.catch(() => 0); "
            "await new Promise((go) => setTimeout(go, 50)); return by; }"
        )
        assert refused, send
    page.close()


def test_equal_runs_give_equal_pages(shipped: Shipped, tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", name="run")
    pages = {render_page(run, b"a model", 0.5, shipped.runtime) for _ in range(2)}
    assert len(pages) == 1
    assert str(tmp_path) not in pages.pop()


def test_a_page_has_its_place_and_its_limits(
    shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fabricate(tmp_path / "run", name="run")
    monkeypatch.setattr("headstart.deployment.export.load_predictor", lambda *_, **__: None)
    with pytest.raises(RunError, match=r"ends with \.html"):
        export(run, form="html", out=tmp_path / "page")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(RunError, match="is no file"):
        export(run, form="html", out=tmp_path / "folder.html")
    with pytest.raises(RunError, match="did you mean html"):
        export(run, form="htm")
    monkeypatch.setattr("headstart.deployment.html_export.MOST_BYTES", 10)
    with pytest.raises(BundleError, match="export a bundle"):
        write_page(tmp_path / "page.html", run, shipped.model, 0.5, shipped.runtime)
    assert not (tmp_path / "page.html").exists()


def test_the_runtime_is_these_very_files_or_none(
    shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "web" / f"onnxruntime-web-{web_runtime.VERSION}"
    folder.mkdir(parents=True)
    (folder / web_runtime.SCRIPT).write_text("let it = 'be another';")
    (folder / web_runtime.WASM).write_bytes(shipped.runtime.wasm)
    with pytest.raises(DataError, match=r"npm is not installed.*put ort"):
        fetch_web_runtime()
    folder.mkdir(exist_ok=True)
    (folder / web_runtime.SCRIPT).write_text(shipped.runtime.script)
    (folder / web_runtime.WASM).write_bytes(shipped.runtime.wasm)
    assert fetch_web_runtime() == shipped.runtime


def test_a_page_of_several_labels_names_all_and_marks_thresholds(
    shipped: Shipped,
    opened: Callable[..., Opened],
    small_backbone: BackboneSpec,
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(shared_cache))
    table = write_many(tmp_path / "photos")
    data = {"source": f"manifest:{table}", "labels": "many"}
    phase = {"train": "head"}
    text = recipe_text("many", phase, backbone=small_backbone, train=None, test=None, data=data)
    recipe = load_recipe(write_recipe(tmp_path, text))
    run = library.run(recipe, out=tmp_path / "run", measure=False, reporter=library.Reporter())
    page = opened(export(run, form="html", reporter=library.Reporter()).path)
    page.page.locator("#chosen").set_input_files(table.parent / "0003.png")
    answer = page.page.locator(".answer:not(.waiting)").first
    answer.locator(".bars").first.wait_for()
    saved = run.predictions("test")
    row = saved.ids.tolist().index("0003.png")
    there = {n for n, has in zip(run.class_names, saved.predicted[row], strict=True) if has}
    marked = answer.locator(".bars li.there .name").all_text_contents()
    assert there and set(marked) == there
    assert answer.locator("h3").text_content() == ", ".join(marked)
    lefts = answer.locator(".least").evaluate_all("all => all.map((e) => parseFloat(e.style.left))")
    assert sorted(lefts) == pytest.approx(sorted(100 * np.array(run.thresholds)), abs=1e-3)
    assert "Finds any of 4 labels" in page.page.locator(".lead").text_content()


def test_the_command_says_the_size(
    headstart: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def stand_in(run: Path, **settings: Any) -> Exported:
        given.update(settings)
        return Exported(tmp_path / "page.html", Parity(40, 0, 1e-6), 15.23)

    monkeypatch.setattr("headstart.deployment.export.export", stand_in)
    done = headstart("export", tmp_path, "--format", "html", "--out", tmp_path / "page.html")
    assert done.code == 0 and "15.2 MB" in done.out and given["form"] == "html"
    assert json.loads(headstart("export", tmp_path, "--json").out)["megabytes"] == 15.23
    assert given["form"] == "bundle"
