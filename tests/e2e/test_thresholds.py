"""Two classes: thresholds go from validation into the bundle, and answers follow them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as library
from headstart.data.sources.mini import open_mini
from headstart.deployment.export import export
from headstart.machine.progress import Reporter
from headstart.rundir.run import Run
from headstart.specs import BackboneSpec
from headstart_predict import load
from headstart_predict.errors import BundleError, HeadstartError
from tests.conftest import Outcome
from tests.recipes import recipe_text, write_recipe

RARE, COMMON = "airplane", "bird"  # hard to tell apart for a small network


@pytest.fixture(scope="module")
def run(
    shared_cache: Path, small_backbone: BackboneSpec, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A solved head that tells RARE, the positive class, from COMMON; exported."""
    folder = tmp_path_factory.mktemp("two")
    source = open_mini()
    for name, count in ((RARE, 90), (COMMON, 150)):
        rows = np.flatnonzero(source.train.labels == source.class_names.index(name))[:count]
        (folder / "photos" / name).mkdir(parents=True)
        for row, pixels in zip(rows, source.train.read(rows), strict=True):
            Image.fromarray(pixels).save(folder / "photos" / name / f"{row}.png")
    text = recipe_text(
        "two",
        {"train": "head"},
        backbone=small_backbone,
        train=None,
        test=None,
        data={"source": f"folder:{folder / 'photos'}", "val_fraction": 0.3},
        evaluation={"positive": RARE},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        recipe = library.load_recipe(write_recipe(folder, text))
        run = library.run(recipe, out=folder / "run", reporter=Reporter())
        export(run, reporter=Reporter())
    return run


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("threshold", ["0.35", "0.45", "recall95"])
def test_run_and_bundle_answer_the_positive_class_from_the_threshold_on(
    run: Run, threshold: str, headstart: Callable[..., Outcome]
) -> None:
    photos = run.path.parent / "photos"
    cuts = load(run.path / "export").cuts
    assert cuts is not None and cuts.by_name.keys() == {"even", "balanced", "f1", "recall95"}
    least = cuts.by_name[threshold] if threshold in cuts.by_name else float(threshold)
    outcome = headstart("predict", run.path, photos, "--csv", "--threshold", threshold)
    assert outcome.code == 0, outcome.err
    rows = rows_of(outcome.out)
    assert {row["label"] for row in rows} == {RARE, COMMON}
    for row in rows:
        # Where rounding of the printed number does not decide.
        if abs(float(row[RARE]) - least) > 1e-5:
            assert row["label"] == (RARE if float(row[RARE]) > least else COMMON)
        assert row["probability"] == row[row["label"]]
    torch = headstart(
        *("predict", run.path, photos, "--csv", "--threshold", threshold, "--device", "cpu")
    )
    assert [row["label"] for row in rows_of(torch.out)] == [row["label"] for row in rows]
    words = (str(run.path / "export"), str(photos), "--csv", "--threshold", threshold)
    alone = subprocess.run(
        [sys.executable, "-m", "headstart_predict", *words], capture_output=True, text=True
    )
    assert alone.stdout == outcome.out


def test_a_threshold_that_makes_no_sense_is_one_line(
    run: Run, published: Path, headstart: Callable[..., Outcome]
) -> None:
    photo = next((run.path.parent / "photos" / RARE).iterdir())
    for model, threshold, said in (
        (run.path, "1.5", "--threshold: threshold 1.5: give a number from 0 to 1"),
        (run.path, "best", "one of: even, balanced, f1, recall95"),
        (published, "0.5", "for two classes"),
    ):
        outcome = headstart("predict", model, photo, "--threshold", threshold)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        assert said in outcome.err


def test_a_bundle_without_thresholds_takes_the_second_class_as_positive(
    run: Run, tmp_path: Path
) -> None:
    record = json.loads((run.path / "export" / "bundle.json").read_text())
    assert record["cuts"]["positive"] == RARE
    for file in (run.path / "export").rglob("*"):
        if file.is_file() and file.name != "bundle.json":
            target = tmp_path / file.relative_to(run.path / "export")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    photo = next((run.path.parent / "photos" / RARE).iterdir())
    del record["cuts"]
    (tmp_path / "bundle.json").write_text(json.dumps(record))
    predictor = load(tmp_path)
    with pytest.raises(HeadstartError, match=r"threshold f1: give a number from 0 to 1$"):
        predictor.answer_from("f1")
    predictor.answer_from(0.0)
    assert predictor.predict(photo)[0].label == COMMON == predictor.class_names[1]
    record["cuts"] = {"positive": "nobody", "thresholds": {"f1": 0.5}}
    (tmp_path / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match="positive one of two classes"):
        load(tmp_path)
