"""What Python is given at the root of the package: names, reprs, progress, one `predict`."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.comparison.explain import explain
from headstart.comparison.leaderboard import build_comparison
from headstart.data.check.duplicates import Duplicates
from headstart.errors import DataError, RunError
from headstart.evaluation.metrics import score
from headstart.machine.progress import Reporter, TerminalReporter
from headstart.rundir.run import Run
from headstart.specs import DataSpec
from headstart_predict.answers import Answer, PictureClassifier
from headstart_predict.cards import MOST_ROWS, Shown
from tests.fabricating import fabricate

VERBS = (
    *("run", "compare", "preview", "explain", "describe", "duplicates", "draw_samples"),
    *("load_predictor", "write_report", "write_card", "write_markdown", "list_backbones"),
    *("list_sources", "fetch", "list_cache", "clear_cache", "shipped_recipes", "track"),
)


class Brightness(PictureClassifier):
    """A predictor whose model is the mean of each channel, so that no network is needed."""

    def __init__(self) -> None:
        super().__init__(("red", "green", "blue"), side=8, temperature=1.0)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.mean(axis=(1, 2)).astype(np.float32) / 25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("0-red", "1-green", "2-blue")):
        path = tmp_path / "photos" / name
        path.mkdir(parents=True)
        pixels = np.zeros((12, 16, 3), np.uint8)
        pixels[..., number] = 200
        Image.fromarray(pixels).save(path / "a.png")
    return tmp_path / "photos"


def test_every_kind_of_image_gives_a_list(folder: Path) -> None:
    predictor = Brightness()
    path = folder / "1-green" / "a.png"
    pixels = np.array(Image.open(path))
    one = [path, str(path), path.read_bytes(), Image.fromarray(pixels), pixels]
    for image in one:
        answers = predictor.predict(image)
        assert isinstance(answers, list), type(image)
        assert [answer.label for answer in answers] == ["green"]
    assert [answer.label for answer in predictor.predict(one)] == ["green"] * len(one)
    assert [answer.label for answer in predictor.predict(folder)] == ["red", "green", "blue"]
    both = predictor.predict([folder, pixels])
    assert [answer.label for answer in both] == ["red", "green", "blue", "green"]
    assert both[0].image == str(folder / "0-red" / "a.png")
    batch = predictor.predict(np.stack([pixels, pixels]))
    assert [answer.image for answer in batch] == ["0", "1"]
    grey = predictor.predict(pixels.mean(axis=2).astype(np.uint8))
    assert len(set(grey[0].probabilities.values())) == 1
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, r"predict\(\) takes a path, .* not int"),
        (None, "not NoneType"),
        ([3.5], "image 0: .* not float"),
        (np.zeros((4, 4, 3)), r"image 0: float64 pixels \(4, 4, 3\): give uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"\(3, 4, 4\): give uint8, 0 to 255, as \(height"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        ("nowhere.jpg", "nowhere.jpg: no such file or folder"),
        (b"no picture", "the image: not an image that can be read"),
    ],
)
def test_what_is_no_image_is_one_line(image: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        Brightness().predict(image)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_what_cannot_be_read_is_handed_over(folder: Path) -> None:
    (folder / "1-green" / "a.png").write_bytes(b"damaged")
    missed: list[DataError] = []
    answers = Brightness().predict(folder, on_unreadable=missed.append)
    assert [answer.label for answer in answers] == ["red", "blue"]
    assert len(missed) == 1


def test_results_show_themselves_in_a_few_lines(tmp_path: Path, folder: Path) -> None:
    runs = [fabricate(tmp_path / name, name=name) for name in ("first", "second")]
    comparison = build_comparison("both", runs, [], tmp_path)
    for copy in range(3):
        Image.open(folder / "0-red" / "a.png").save(folder / "1-green" / f"{copy}.png")
        Image.open(folder / "0-red" / "a.png").save(folder / "0-red" / f"{copy}.png")
        Image.open(folder / "2-blue" / "a.png").save(folder / "2-blue" / f"{copy}.png")
    spec = DataSpec(source=f"folder:{folder}", size=16)
    splits = headstart.load_data(spec)
    predictions = runs[0].predictions("test")
    shown: list[tuple[object, str]] = [
        (runs[0], "Run first: finished"),
        (runs[0].recipe, "Recipe first"),
        (comparison, "Comparison both: 2 runs"),
        (comparison.rows[0], "test accuracy"),
        (explain(*runs), "Explanation of 2 runs"),
        (predictions, "Predictions: 200 images, 10 classes"),
        (score(predictions), "Scores on 200 images"),
        (headstart.describe(spec, reporter=Reporter()), "3 classes"),
        (headstart.duplicates(spec, reporter=Reporter()), "Duplicates: "),
        (splits, "Splits of folder:"),
        (splits.train, "ImageSet: "),
        (headstart.load_study("six"), "Study six: 6 runs"),
        (Brightness().predict(folder)[0], ": red"),
    ]
    for value, expected in shown:
        assert isinstance(value, Shown), type(value)
        text, html = repr(value), value._repr_html_()
        assert expected in text, text
        assert len(text.splitlines()) <= 10 + MOST_ROWS, text
        assert "array(" not in text
        assert html.startswith("<p><strong>")


def test_a_notebook_shows_names_as_text() -> None:
    html = Answer("<b>.jpg", "<i>", 1.0, {"<i>": 1.0})._repr_html_()
    assert "&lt;b&gt;.jpg" in html
    assert "<i>" not in html


def test_a_repr_does_not_fail(tmp_path: Path) -> None:
    assert "recipe.toml: cannot be read" in repr(Run(tmp_path))
    fabricate(tmp_path / "run", name="cut")
    (tmp_path / "run" / "metrics.json").unlink()
    assert "no metrics.json" in repr(Run(tmp_path / "run"))


def test_long_tables_are_cut() -> None:
    probabilities = {f"class {k}": 0.01 for k in range(100)}
    assert len(repr(Answer("a.jpg", "class 0", 0.01, probabilities)).splitlines()) < 6
    study = headstart.load_study("repeats")
    assert "and 2 more" in repr(study)
    assert "and 2 more" in study._repr_html_()


def test_explain_takes_directories_studies_and_comparisons(tmp_path: Path) -> None:
    runs = [fabricate(tmp_path / name, name=name) for name in ("a", "b")]
    by_run = explain(*runs)
    assert explain(tmp_path / "a", str(tmp_path / "b")) == by_run
    assert {entry.run for entry in explain(tmp_path).entries} == {"a", "b"}
    with pytest.raises(RunError, match="no finished run to explain"):
        explain()


def test_progress_is_bars_in_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook's kernel is no terminal and asks for colours all the same."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter = TerminalReporter()
    reporter.say("a line")
    with reporter.track("a pass", 10, "images") as advance:
        advance(10)
    captured = capsys.readouterr()
    assert captured.err == "a line\n"
    assert captured.out == ""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with TerminalReporter().track("a pass", 10, "images") as advance:
        advance(5)
    assert "a pass" in terminal.getvalue()


@pytest.mark.parametrize("verb", ["run", "compare", "preview"])
def test_progress_is_reported_unless_it_is_silenced(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to where each call reads its photos."""
    monkeypatch.setattr("headstart.plan.plan.load_data", _stop)
    monkeypatch.setattr("headstart.selection.preview.describe", _stop)
    scratch = ['backbone.weights="random"', 'phases=[{train="from_scratch"}]']
    recipe = headstart.load_recipe("cifar10-probe", [*scratch, "backbone.name=small_cnn"])
    study = headstart.Study(
        name="s", recipe=recipe.model_dump(mode="json", exclude_none=True), grid={"seed": [0]}
    )
    given = study if verb == "compare" else recipe
    out = {} if verb == "preview" else {"out": tmp_path / "out"}
    for reporter, printed in ((None, True), (Reporter(), False)):
        with pytest.raises((DataError, RunError)):
            getattr(headstart, verb)(given, reporter=reporter, **out)
        assert bool(capsys.readouterr().err) == printed


def _stop(*_: object, progress: Callable[[str, int, int], None], **__: object) -> None:
    progress("looking at photos", 1, 10)
    raise DataError("far enough")


def test_whatever_the_command_line_does_is_at_the_root() -> None:
    assert set(VERBS) <= set(headstart.__all__)
    for name in headstart.__all__:
        value = getattr(headstart, name)
        assert value.__doc__, name
        assert not isinstance(value, type(sys)), name
    names = {path.stem for path in Path(headstart.__file__).parent.iterdir()}
    assert not names & set(headstart.__all__)
    assert issubclass(headstart.Duplicates, Duplicates)


def test_importing_gives_no_warning() -> None:
    code = (
        "import headstart\nfor name in headstart.__all__:\n    getattr(headstart, name)\n"
        "import headstart.features.engines, headstart.assessment.heat"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
