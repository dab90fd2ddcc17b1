"""The command `predict`: answers, formats, and files that are no images."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as library
from headstart.data import load_data
from headstart.rundir.run import open_run
from headstart.specs import DataSpec
from tests.conftest import Outcome
from tests.recipes import recipe_text, write_recipe

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def probe(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose test images are those of `pictures`."""
    folder = tmp_path_factory.mktemp("probe")
    recipe = library.load_recipe(write_recipe(folder, recipe_text("probe", test=100)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        return library.run(recipe, out=folder / "run").path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten test images as PNG files, named by their class."""
    test = load_data(DataSpec(source="cifar10-mini", test_limit=100, size=32)).test
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in range(10):
        name = test.ids[row].replace("/", "-")
        Image.fromarray(test.read(np.array([row]))[0]).save(folder / f"{name}.png")
    return folder


def test_predict_agrees_with_the_saved_predictions(
    probe: Path, pictures: Path, headstart: Command
) -> None:
    answers = json.loads(headstart("predict", probe, pictures, "--json").out)
    saved = open_run(probe).predictions("test").tempered(open_run(probe).metrics.temperature)
    rows = {str(i).replace("/", "-"): row for row, i in enumerate(saved.ids)}
    assert len(answers) == 10
    for answer in answers:
        row = rows[Path(answer["image"]).stem]
        expected = saved.probabilities[row]
        got = [answer["probabilities"][name] for name in open_run(probe).class_names]
        assert got == pytest.approx(list(expected), abs=1e-4)
    text = headstart("predict", probe, pictures)
    assert len(text.out.splitlines()) == 11
    table = list(csv.DictReader(io.StringIO(headstart("predict", probe, pictures, "--csv").out)))
    assert [row["label"] for row in table] == [answer["label"] for answer in answers]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_predict_says_calibrated_probabilities(
    probe: Path, pictures: Path, tmp_path: Path, headstart: Command, temperature: float
) -> None:
    """At the run's own temperature."""
    other = shutil.copytree(probe, tmp_path / "other")
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**metrics, "temperature": temperature}))
    saved = open_run(probe).predictions("test")
    expected = saved.tempered(temperature)
    rows = {str(i).replace("/", "-"): row for row, i in enumerate(saved.ids)}
    for answer in json.loads(headstart("predict", other, pictures, "--json").out):
        row = rows[Path(answer["image"]).stem]
        assert answer["label"] == open_run(probe).class_names[saved.predicted[row]]
        assert answer["probability"] == pytest.approx(expected.confidence[row], abs=1e-4)


def test_predict_works_from_the_directory_alone(
    probe: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headstart: Command
) -> None:
    moved = shutil.copytree(probe, tmp_path / "moved")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "empty"))
    assert headstart("predict", moved, pictures).code == 0


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_a_name_or_a_file_of_an_odd_kind_costs_no_other_answer(
    probe: Path, pictures: Path, headstart: Command, form: tuple[str, ...]
) -> None:
    whole = next(pictures.iterdir())
    (pictures / "odd-\udcff.png").write_bytes(whole.read_bytes())  # a byte that is not UTF-8
    os.mkfifo(pipe := pictures.parent / "pipe.jpg")
    outcome = headstart("predict", probe, pictures, pipe, *form)
    assert outcome.code == 2
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error"))
    assert line == f"error: {pipe}: not an image that can be read: not a regular file"
    assert outcome.out.count(".png") == 11 and "odd-\\udcff.png" in outcome.out


def test_a_lack_of_memory_ends_predict(
    probe: Path, pictures: Path, headstart: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("headstart_predict.decode._render", short)
    outcome = headstart("predict", probe, pictures)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error"))
    assert "not enough memory to read it" in line


def test_predict_lists_what_it_cannot_read_and_answers_the_rest(
    probe: Path, pictures: Path, headstart: Command
) -> None:
    (pictures / "text.jpg").write_text("not a picture")
    whole = next(pictures.glob("*.png")).read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
    outcome = headstart("predict", probe, pictures, "--json")
    assert outcome.code == 2
    assert len(json.loads(outcome.out)) == 10
    lines = outcome.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") and "not an image" in line for line in lines)
