"""`headstart data audit` on folders with planted faults: its findings, exit codes and files."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as library
from headstart.data.sources.mini import open_mini
from headstart.errors import HeadstartError
from headstart.machine.progress import Reporter
from tests.conftest import Outcome

CLASSES = ("airplane", "automobile", "deer", "frog")
TRAIN, TEST = 60, 15
WRONG = 8


@dataclass(frozen=True)
class Planted:
    """A folder, and the paths of its planted faults."""

    root: Path
    wrong: dict[str, str]  # true class by path
    twice: tuple[str, str]  # train and test
    truncated: str
    lying: str


def write_photos(root: Path, *, save: dict[str, Any] | None = None) -> None:
    """Real pictures of four classes, as PNG, or as `save` says for a class."""
    mini = open_mini()
    for split, images, count in (("train", mini.train, TRAIN), ("test", mini.test, TEST)):
        for name in CLASSES:
            rows = np.flatnonzero(images.labels == mini.class_names.index(name))[:count]
            folder = root / split / name
            folder.mkdir(parents=True)
            settings = (save or {}).get(name)
            suffix = "png" if settings is None else "jpg"
            for number, pixels in enumerate(images.read(rows)):
                Image.fromarray(pixels).save(folder / f"{number:03}.{suffix}", **(settings or {}))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    root = tmp_path_factory.mktemp("planted") / "photos"
    write_photos(root)
    wrong = {}
    for number in range(WRONG):
        true, given = CLASSES[number % 4], CLASSES[(number + 1 + number // 4) % 4]
        moved = f"train/{given}/moved{number}.png"
        (root / "train" / true / f"{number:03}.png").rename(root / moved)
        wrong[moved] = true
    twice = ("train/frog/030.png", "test/frog/twice.png")
    shutil.copy(root / twice[0], root / twice[1])
    whole = (root / "train/deer/040.png").read_bytes()
    (root / "train/deer/cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/airplane/041.png").rename(root / "train/airplane/041.jpg")
    for number, step in enumerate((3, 4, 5)):  # squares, which no class has
        squares = np.indices((32, 32)).sum(axis=0) // step % 2 * 255
        Image.fromarray(squares.astype(np.uint8)).save(root / f"train/deer/strange{number}.png")
    return Planted(root, wrong, twice, "train/deer/cut.png", "train/airplane/041.jpg")


Run = Callable[..., tuple[Outcome, dict[str, Any]]]


@pytest.fixture
def run(
    headstart: Callable[..., Outcome],
    real_weights: str,
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Audit a folder with --json."""
    monkeypatch.setenv("HEADSTART_CACHE", str(shared_cache))

    def command(*arguments: str | Path) -> tuple[Outcome, dict[str, Any]]:
        done = headstart("data", "audit", *arguments, "--backbone", real_weights, "--json")
        return done, json.loads(done.out) if done.code < 2 else {}

    return command


def test_planted_faults_are_found(run: Run, planted: Planted) -> None:
    done, found = run(planted.root)
    assert done.code == 1
    assert {
        "labels",
        "duplicates",
        "unreadable",
        "foreign",
        "shortcuts",
        "counts",
        "quality",
    } <= set(found)
    first = found["labels"][: 2 * WRONG]
    caught = {s["path"]: s["suggested"] for s in first if s["path"] in planted.wrong}
    assert len(caught) >= WRONG - 1
    assert sum(planted.wrong[path] == rather for path, rather in caught.items()) >= WRONG - 2
    assert all(set(s) == {"path", "label", "suggested", "score", "likely"} for s in found["labels"])
    scores = [s["score"] for s in found["labels"]]
    assert scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= scores[0] <= 1
    across = [p for p in found["duplicates"] if p["across"]]
    assert [{p["first"], p["second"]} for p in across] == [set(planted.twice)]
    assert across[0]["kind"] == "exact" and not across[0]["contradicting"]
    faults = {fault["path"]: fault for fault in found["unreadable"]}
    assert faults.keys() == {planted.truncated, planted.lying}
    assert not faults[planted.truncated]["readable"] and faults[planted.lying]["readable"]
    assert "PNG" in faults[planted.lying]["reason"]
    assert len(found["wrong"]) == 1 and "two splits" in found["wrong"][0]
    strange = {f"train/deer/strange{number}.png" for number in range(3)}
    assert strange <= {f["path"] for f in found["foreign"][:5]}
    counts = found["counts"]
    assert counts["pictures"] == 4 * (TRAIN + TEST) + 4 and counts["unreadable"] == 1
    assert sum(counts["classes"]["test"].values()) == 4 * TEST + 1


def test_good_photos_exit_with_zero(run: Run, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    done, found = run(tmp_path / "photos")
    assert done.code == 0, found["wrong"]
    assert found["duplicates"] == [] and found["unreadable"] == [] and found["wrong"] == []
    assert found["counts"]["likely_wrong_labels"] <= 15  # of 300 pictures of 32 pixels
    assert all(cut["level"] != "alarm" for cut in found["shortcuts"])


def test_classes_that_differ_in_jpeg_quality_are_called_out(run: Run, tmp_path: Path) -> None:
    qualities = {name: {"quality": 75} for name in CLASSES} | {"frog": {"quality": 92}}
    write_photos(tmp_path / "photos", save=qualities)
    done, found = run(tmp_path / "photos")
    assert done.code == 1
    cut = next(cut for cut in found["shortcuts"] if cut["field"] == "JPEG quality")
    assert cut["level"] == "alarm" and cut["label"] == "frog" and cut["auc"] > 0.99
    assert any("JPEG quality" in line for line in found["wrong"])


def rows_of(manifest: Path, root: Path) -> dict[str, dict[str, str]]:
    """The rows of a manifest by the photos' paths below the folder."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {Path(row["path"]).relative_to(root).as_posix(): row for row in rows}


def test_a_manifest_leaves_out_what_is_surely_wrong(
    run: Run, planted: Planted, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in planted.root.rglob("*.*")}
    manifest = tmp_path / "manifest.csv"
    done, found = run(planted.root, "--fix", manifest)
    assert done.code == 1
    named = rows_of(manifest, planted.root)
    assert planted.truncated not in named and planted.twice[0] not in named
    assert len(named) == found["counts"]["pictures"] - 1
    assert named[planted.twice[1]]["split"] == "test" and named[planted.lying]["split"] == "train"
    moved = next(iter(planted.wrong))
    assert named[moved]["label"] == moved.split("/")[1]  # nothing is relabelled unasked
    assert {path: path.stat().st_mtime_ns for path in planted.root.rglob("*.*")} == before

    again, _ = run(planted.root, "--fix", manifest)
    assert again.code == 2 and "--overwrite" in again.err
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(f"path,label,action\n{moved},{planted.wrong[moved]},relabel\n")
    done, _ = run(planted.root, "--fix", manifest, "--decisions", decisions, "--overwrite")
    assert done.code == 1
    assert rows_of(manifest, planted.root)[moved]["label"] == planted.wrong[moved]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "page.txt"], "ends with .html"),
        (["--fix", "photo.jpg"], "ends with .csv"),
        (["--decisions", "d.csv"], "--fix"),
        (["--fix", "new.csv", "--decisions", "none.csv"], "no such file"),
        (["--backbone", "mobilenetv2_10"], "did you mean"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    said: str,
    headstart: Callable[..., Outcome],
    planted: Planted,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = headstart("data", "audit", planted.root, *arguments)
    assert done.code == 2 and said in done.err and done.err.count("error:") == 1
    assert list(tmp_path.glob("*.csv")) == []


def test_no_folder_is_one_line(headstart: Callable[..., Outcome], tmp_path: Path) -> None:
    done = headstart("data", "audit", tmp_path / "nothing")
    assert done.code == 2 and "no such folder" in done.err


def test_from_python_with_a_page(
    planted: Planted, real_weights: str, shared_cache: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HEADSTART_CACHE", str(shared_cache))
    page = tmp_path / "page.html"
    found = library.audit(planted.root, backbone=real_weights, out=page, reporter=Reporter())
    assert isinstance(found, library.Audit) and "Audit of" in repr(found)
    text = page.read_text(encoding="utf-8")
    assert text.count("<fieldset") >= WRONG and "http" not in text.split("<main")[1]
    with pytest.raises(HeadstartError, match="random weights"):
        library.audit(planted.root, weights="random", reporter=Reporter())
