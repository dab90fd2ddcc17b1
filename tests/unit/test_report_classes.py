"""Many classes, long names: everything keeps its room, and every picture its file's name."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from headstart.evaluation.metrics import confusion_matrix
from headstart.report import write_report
from headstart.report.sections.confusion import describe_confusion, draw_grid, families
from headstart.rundir.run import Run
from tests.fabricating import fabricate
from tests.unit.test_report import read

SCRIPTS = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26}
CHARACTERS = [f"{name} character{k:02}" for name, n in SCRIPTS.items() for k in range(1, n + 1)]
WORDS = ("bark", "bud", "cone", "flower", "fruit", "leaf", "needle", "pod", "root", "seed")
SENTENCES = [
    f"a close photograph taken outdoors in summer of one {word} of a common garden tree, front view"
    for word in WORDS
]  # about 100 characters


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    folder = tmp_path_factory.mktemp("long")
    run = fabricate(folder / "run", name="long", class_names=SENTENCES)
    return run, write_report([run], folder).read_text(encoding="utf-8")


def test_a_matrix_of_long_names_has_short_labels_that_differ(long_names: tuple[Run, str]) -> None:
    page = long_names[1]
    matrix = page.split('<table class="matrix">')[1].split("</table>")[0]
    labels = re.findall(r'<th scope="row"><abbr title="(.*?)">(.*?)</abbr></th>', matrix)
    assert [unescape(whole) for whole, _ in labels] == SENTENCES
    assert len({label for _, label in labels}) == 10
    assert all(len(label) <= 18 for _, label in labels)
    assert all(word in label for word, (_, label) in zip(WORDS, labels, strict=True))


def test_the_whole_name_stands_in_the_table_and_under_the_pointer(
    long_names: tuple[Run, str],
) -> None:
    page = long_names[1]
    table = page.split("By class on test")[1].split("</table>")[0]
    assert all(f">{name}</th>" in table for name in SENTENCES)
    shown = re.findall(r'<span class="true"><abbr title="(.*?)">(.*?)</abbr>', page)
    assert {whole for whole, _ in shown} == set(SENTENCES)
    assert len({caption for _, caption in shown}) == 10


def test_136_classes_are_drawn_by_family_with_the_pairs_most_confused(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", name="wide", classes=136, n=680, class_names=CHARACTERS)
    path = write_report([run], tmp_path)
    text = path.read_text(encoding="utf-8")
    grid = text.split('class="plot grid"')[1].split("</svg>")[0]
    names = re.findall(r"<text[^>]*><title>(\w+)</title>", grid)
    assert names == list(SCRIPTS)
    page = read(path)
    assert "Most often confused" in page.text
    confusion = confusion_matrix(run.predictions("test"))
    true, answer = np.unravel_index(int((confusion * (1 - np.eye(136))).argmax()), (136, 136))
    said = f"{CHARACTERS[true]} taken for {CHARACTERS[answer]}: {confusion[true, answer]} of 5"
    assert said in grid
    tiles = re.findall(r'<span class="true">(?:<abbr[^>]*>)?(.*?)<', text)
    labels = run.pictures["prediction_labels"]
    assert len(set(tiles[: len(labels)])) == len(set(labels.tolist()))


def test_every_count_is_in_the_drawing() -> None:
    rng = np.random.default_rng(0)
    confusion = rng.poisson(0.3, (60, 60)) + np.diag(np.full(60, 5))
    drawn = draw_grid(confusion, [f"class {k}" for k in range(60)])
    cells = "".join(re.findall(r'<path d="([^"]*)" class="cell', drawn))
    assert cells.count("M") == (confusion > 0).sum()
    assert families(["oak"] * 3) == []
    assert families([f"{w} {k}" for w in "ab" for k in range(9)]) == [(0, 9, "a"), (9, 18, "b")]
    few = describe_confusion(confusion[:5, :5], list("abcde"))
    assert few.grid is None and few.matrix is not None
    assert few.matrix.names == list("abcde")


def test_every_picture_carries_the_name_of_its_file(long_names: tuple[Run, str]) -> None:
    run, page = long_names
    shown = re.findall(r'<span class="file">(.*?)</span>', page)
    expected = [*run.pictures["prediction_ids"], *run.pictures["mistake_ids"][:12]]
    assert sorted(shown) == sorted(expected)
    samples = re.findall(r'<img [^>]*title="(train-\d+)"', page)
    assert len(samples) == 30


def test_the_wrong_answers_can_be_copied_by_name(long_names: tuple[Run, str]) -> None:
    run, page = long_names
    test = run.predictions("test")
    wrong = int((~test.correct).sum())
    assert 12 < wrong <= 100
    listed = (
        unescape(page.split('id="run-1-mistakes">')[1].split("</code>")[0]).strip().splitlines()
    )
    assert listed[0].split("\t") == ["file", "true class", "answer", "confidence"]
    rows = [line.split("\t") for line in listed[1:]]
    assert {row[0] for row in rows} == set(test.ids[~test.correct])
    sure = [float(row[3]) for row in rows]
    assert sure == sorted(sure, reverse=True)
    assert f"All {wrong} wrong answers as a list" in page


def test_reliability_of_49_images_is_three_dots_with_intervals(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", name="few", n=49)
    page = write_report([run], tmp_path).read_text(encoding="utf-8")
    drawing = page.split('aria-label="Reliability of')[1].split("</svg>")[0]
    assert drawing.count('class="share-of after"') == drawing.count('class="range-line"') == 3
    assert "polyline" not in drawing
    assert drawing.count(", 16 images") + drawing.count(", 17 images") == 3
