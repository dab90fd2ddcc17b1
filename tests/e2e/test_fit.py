"""fit: from a folder of photos to a bundle that answers, with real weights, in a notebook."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import headstart as library
from headstart.data.sources.mini import open_mini
from headstart.machine.progress import Reporter
from headstart.photos import source_of
from headstart.recipe import load_recipe, load_study
from headstart_predict import load
from headstart_predict.cards import percent
from tests.conftest import ROOT, Outcome

CLASSES = ("airplane", "frog", "ship")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos in each of three classes, as somebody's folder."""
    source, folder = open_mini(), tmp_path / "my photos"
    for name in CLASSES:
        rows = np.flatnonzero(source.train.labels == source.class_names.index(name))[:2]
        (folder / name).mkdir(parents=True)
        for row, pixels in zip(rows, source.train.read(rows), strict=True):
            Image.fromarray(pixels).resize((64, 64)).save(folder / name / f"{row}.png")
    return folder


# What the notebook does without here: the other backbones, all epochs but one, and the cost of
# serving. VGG16 is dear, and left out. Bars are drawn even if they are short.
BRIEFLY = """
import headstart.deployment.measuring, headstart.photos, headstart.selection.drafting
from headstart.machine import notebook
headstart.photos.OFFERED = ({backbone!r}, "vgg16")
headstart.selection.drafting.MOST_EPOCHS = 1
headstart.deployment.measuring.measure_runs = lambda runs, **_: list(runs)
notebook.REDRAWN_S = 0.0
"""

# The notebook's photos are made wide: what they show is at an end, beside noise. Half are enough.
WIDE = """
noise = np.random.default_rng(0)
for path in sorted(photos.glob("*/*.png"))[::2]:
    path.unlink()
for number, path in enumerate(sorted(photos.glob("*/*.png"))):
    wide = noise.integers(100, 130, (64, 192, 3), np.uint8)
    left = 0 if number % 2 else 128
    wide[:, left : left + 64] = np.asarray(Image.open(path).resize((64, 64)))
    Image.fromarray(wide).save(path)
"""


@dataclass
class Executed:
    """The notebook after its last cell. bars: HTML that displays showed until it was replaced."""

    folder: Path
    notebook: Any
    bars: list[str]

    def shown(self, words: str, mime: str) -> str:
        """What the cell with these words shows."""
        (cell,) = (cell for cell in self.notebook.cells if words in cell.source)
        return "".join(out.data.get(mime, "") for out in cell.outputs if "data" in out)


@pytest.fixture(scope="module")
def executed(
    shared_cache: Path, real_weights: str, tmp_path_factory: pytest.TempPathFactory
) -> Executed:
    """The notebook of the documentation, in a kernel, on the photos that it makes itself."""
    done = Executed(
        tmp_path_factory.mktemp("notebook"),
        nbformat.read(ROOT / "docs" / "fit.ipynb", as_version=4),
        [],
    )
    briefly = nbformat.v4.new_code_cell(BRIEFLY.format(backbone=real_weights))
    done.notebook.cells.insert(0, briefly)
    done.notebook.cells.insert(3, nbformat.v4.new_code_cell(WIDE))

    class Watching(NotebookClient):
        def process_message(self, message: Any, cell: Any, index: int) -> Any:
            if message["msg_type"] in ("display_data", "update_display_data"):
                done.bars.append(message["content"]["data"].get("text/html", ""))
            return super().process_message(message, cell, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        patch.setenv("IPYTHONDIR", str(done.folder / "ipython"))
        place = {"metadata": {"path": str(done.folder)}}
        Watching(done.notebook, timeout=300, resources=place).execute()
    return done


def test_a_notebook_shows_pictures_cards_and_bars_and_nothing_like_an_error(
    executed: Executed,
) -> None:
    assert "airplane" in executed.shown("headstart.describe(", "text/html")
    assert executed.shown("draw_samples", "image/png")
    card = executed.shown("headstart.fit(", "text/html")
    assert "test accuracy" in card
    assert executed.shown("display(Image", "image/png")
    assert "Answer for" in executed.shown("display(Image", "text/html")
    page = executed.shown("HTML(f", "text/html").split('"')[1]
    assert (executed.folder / page).is_file()
    # A bar was there while images were read, and is not there any more.
    assert any("<progress" in bar and " images" in bar for bar in executed.bars)
    assert "<progress" not in card
    lines = [out for cell in executed.notebook.cells for out in cell.get("outputs", [])]
    assert [out.text for out in lines if out.get("name") == "stderr"] == []


def test_a_folder_becomes_a_bundle_that_answers(
    executed: Executed,
    shared_cache: Path,
    real_weights: str,
    headstart: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command finds what the notebook fitted."""
    monkeypatch.setenv("HEADSTART_CACHE", str(shared_cache))
    monkeypatch.setattr("headstart.photos.OFFERED", (real_weights, "vgg16"))
    monkeypatch.setattr("headstart.selection.drafting.MOST_EPOCHS", 1)
    monkeypatch.chdir(executed.folder)
    outcome = headstart("fit", "photos", "--minutes", "10", "--json")
    assert outcome.code == 0, outcome.err
    assert "nothing to repeat" in outcome.err
    assert "exporting" not in outcome.err
    found = json.loads(outcome.out)
    assert set(found["runs"]) == {f"{real_weights}-probe", f"{real_weights}-tuned-1-epochs"}
    assert found["test"]["accuracy"] > 0.8
    assert found["test"]["interval"][0] < found["test"]["accuracy"]
    assert "vgg16" in found["not_tried"][0]
    predictor = load(found["bundle"])
    assert predictor.class_names == CLASSES
    answers = predictor.predict(sorted(Path("photos/frog").iterdir()))
    assert np.mean([answer.label == "frog" for answer in answers]) > 0.8
    # The centre square would have cut off what the photos show.
    chosen = found["framing"]["chosen"]
    assert chosen in ("pad", "squash") and f"framing {chosen}" in outcome.err
    assert found["framing"]["scores"]["crop"] < 0.6
    assert load_recipe(found["recipe"]).data.framing == predictor.framing == chosen
    assert "held-out training images" in Path(found["report"]).read_text()
    assert not [line for line in found["warnings"] if "centre square" in line]
    report = executed.folder / "again.html"
    assert headstart("report", Path(found["study"]).parent, "--out", report).code == 0
    assert "held-out training images" in report.read_text()
    shown = headstart("fit", "photos", "--minutes", "10").out
    assert f"test           accuracy {percent(found['test']['accuracy'])}" in shown
    assert f"framing        {chosen}: the centre square cuts off 67%" in shown
    # What it wrote says all that it did: the recipe is the run's, and the study has every run.
    assert load_recipe(found["recipe"]).name == Path(found["run"]).name
    assert {r.name for r in load_study(found["study"]).recipes()} == set(found["runs"])
    assert Path(found["report"]).is_file()


def test_what_a_user_may_type_wrongly_is_one_line(
    photos: Path, tmp_path: Path, cache: Path, headstart: Callable[..., Outcome]
) -> None:
    for arguments, said in (
        ((tmp_path / "nowhere",), "no such folder"),
        ((photos / "frog",), "no class folders"),
        ((photos, "--preset", "slow"), "slow"),
        ((photos, "--minutes", "-1"), "minutes"),
        ((photos, "--group", "burst"), "--group"),
        ((photos, "--label-from", "(.+)_"), "--label-from"),
        ((tmp_path / "photos.csv",), "photos.csv"),
    ):
        outcome = headstart("fit", *arguments)
        assert outcome.code == 2
        assert said in outcome.err
        assert len(outcome.err.strip().splitlines()) <= 2


def test_what_is_fitted_may_be_a_folder_a_table_or_a_data_set() -> None:
    assert source_of("photos") == "folder:photos"
    assert source_of(Path("photos/table.CSV")) == "manifest:photos/table.CSV"
    assert source_of("cifar10-mini") == "cifar10-mini"
    assert source_of("folder:x.csv") == "folder:x.csv"


def test_python_says_that_there_is_no_such_preset(photos: Path, cache: Path) -> None:
    with pytest.raises(library.HeadstartError, match="did you mean quick"):
        library.fit(photos, preset="quik", reporter=Reporter())
