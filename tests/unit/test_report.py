"""The report page: complete, self-contained, escaped, and the same bytes for the same runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from headstart.files import write_json
from headstart.report import write_report
from headstart.report.contenders import compare_rows
from headstart.report.drawing import plots, svg
from headstart.rundir.history import Epoch
from headstart.rundir.run import Run
from headstart.text import formats
from tests.fabricating import fabricate, fail

NASTY = "<script>alert('x')</script> & \"quotes\""


@dataclass
class Page(HTMLParser):
    """What a reader's browser would see of a page."""

    ids: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    images: list[dict[str, str | None]] = field(default_factory=list)
    text: str = ""
    scripts: int = 0
    labels: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.references += [value or "" for key, value in attrs if key in ("src", "href")]
        self.images += [given] if tag == "img" else []
        self.scripts += tag == "script"
        self.labels += [given.get("aria-label")] if given.get("role") == "img" else []

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    names = [NASTY, *(f"class {k}" for k in range(1, 10))]
    return [
        fabricate(folder / "a", name="mobilenetv2_100", class_names=names, skill=2.0),
        fabricate(folder / "b", name="tf_efficientnet_lite0", class_names=names, skill=3.2,
                  cost=1.4, solved=False, marks=("unit normalisation",)),
        fail(folder / "c", "vgg16-hub", f"the hub cannot be reached {NASTY}"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(write_report(runs, tmp_path_factory.mktemp("out") / "study.html"))


def test_the_page_needs_nothing_else(page: Page) -> None:
    assert len(page.references) > 40
    assert all(ref.startswith(("#", "data:image/")) for ref in page.references)


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids)) > 20
    links = {ref[1:] for ref in page.references if ref.startswith("#")}
    assert links <= set(page.ids)


def test_every_picture_is_described(page: Page) -> None:
    assert len(page.images) == 30
    assert all(image.get("alt") for image in page.images)
    # Steps; cost panels; path and curves; curves alone; reliability, of all and of each run.
    drawn = 1 + 6 + 4 + 2 + 2 + 2
    assert len(page.labels) == drawn + 2 * (24 + 12)  # answers and mistakes
    assert all(page.labels)


def test_right_and_wrong_answers_are_drawn(runs: list[Run], tmp_path: Path) -> None:
    page = read(write_report(runs[:1], tmp_path))
    shown = runs[0].pictures
    right = shown["prediction_predicted"] == shown["prediction_labels"]
    assert 0 < right.sum() < 24
    assert page.text.count("✓ ") == right.sum()
    assert page.text.count("✗ ") == 24 - right.sum() + 12 + 1  # surest mistakes, and the caption
    assert f"{right.sum()} of 24 right" in page.text
    assert sum(" recognised" in str(label) for label in page.labels) == right.sum()


def test_pictures_that_runs_share_are_in_the_page_once(page: Page) -> None:
    stored = [name for name in page.ids if name.startswith("picture-")]
    assert len(stored) == 24 + 2 * 12  # the same random images, and each run's mistakes
    assert sum(page.references.count(f"#{name}") == 2 for name in stored) == 24


def test_curves_mark_the_epoch_that_was_kept(runs: list[Run], tmp_path: Path) -> None:
    solved, fitted = (write_report([run], tmp_path / run.path.name) for run in runs[:2])
    assert solved.read_text(encoding="utf-8").count('class="kept"') == 2  # loss and accuracy
    text = fitted.read_text(encoding="utf-8")
    kept = re.findall(r'class="kept" (cx="[\d.]+" cy="[\d.]+")', text)
    tips = [
        re.findall(rf"{at}[^>]*><title>val, (.*?): [\d. %\u202f]+</title>", text) for at in kept
    ]
    assert tips == 2 * [["head, epoch 10"], ["last stage, epoch 8"]]  # of loss and of accuracy
    assert text.count('class="boundary"') == 2
    assert "2 last stage</text>" in text


def test_every_run_is_in_the_page(page: Page, runs: list[Run]) -> None:
    assert {"run-1", "run-2", "run-3"} <= set(page.ids)
    assert all(page.text.count(run.name) >= 2 for run in runs)
    assert "unit normalisation" in page.text
    assert "the hub cannot be reached" in page.text


def test_the_answer_names_the_best_run(page: Page) -> None:
    start = " ".join(page.text.split("Headstart report")[1].split())
    assert "tf_efficientnet_lite0 wins with" in start


def test_user_text_is_escaped(page: Page, runs: list[Run], tmp_path: Path) -> None:
    text = write_report(runs, tmp_path).read_text(encoding="utf-8")
    assert page.scripts == 1
    assert "<script>alert" not in text
    assert NASTY in page.text


def test_the_same_runs_give_the_same_small_file(runs: list[Run], tmp_path: Path) -> None:
    first, second = write_report(runs, tmp_path / "1"), write_report(runs, tmp_path / "2")
    assert first.name == "report.html"
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 530_000


def test_ten_runs_on_a_hundred_classes_stay_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 96, 96, 3), dtype=np.uint8)  # noise: the worst to compress
    run = fabricate(tmp_path / "run", name="wide", classes=100, n=400, images=images)
    path = write_report([run] * 10, tmp_path)
    assert "Most often confused" in read(path).text
    assert path.stat().st_size < 5_000_000


def test_one_run_and_none_that_finished(runs: list[Run], tmp_path: Path) -> None:
    one = read(write_report(runs[:1], tmp_path / "one.html"))
    assert "mobilenetv2_100 reaches" in " ".join(one.text.split())
    assert "Accuracy against cost" not in one.text
    none = read(write_report(runs[2:], tmp_path / "none.html"))
    assert "No run has finished yet" in none.text


def test_files_may_be_missing(runs: list[Run], tmp_path: Path) -> None:
    run = fabricate(tmp_path / "torn", name="torn")
    for name in ("pictures.npz", "cost.json", "log.jsonl", "metrics.json", "recipe.toml"):
        (run.path / name).unlink()
        path = write_report([Run(run.path), runs[0]], tmp_path)
        assert "torn" in read(path).text


def test_a_run_that_diverged_still_has_a_page(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "diverged", name="diverged")
    run.append_log(Epoch(1, np.nan, 0.1, np.inf, 0.1, epoch=8, lr=1.0, seconds=1.0))
    test = replace(run.metrics.test, loss=np.nan)
    write_json(run.path / "metrics.json", replace(run.metrics, test=test))
    text = write_report([Run(run.path)], tmp_path).read_text(encoding="utf-8")
    assert "by epoch" in text
    assert '="nan' not in text
    assert "inf," not in text


def test_a_comparison_brings_its_p_values_and_protocol(runs: list[Run], tmp_path: Path) -> None:
    compared = compare_rows([runs[1], runs[0]])
    rows = tuple(
        replace(row, p_value=p, within_noise=p > 0.05)
        for row, p in zip(compared.rows, (1.0, 0.21), strict=True)
    )
    comparison = replace(
        compared, name="lite", best=runs[1].name, rows=rows, protocol={"budget": "one"}
    )
    text = " ".join(read(write_report(runs, tmp_path, comparison)).text.split())
    assert "lite: results" in text
    assert "p = 0.21 against the best" in text
    assert "mobilenetv2_100 is within noise of it" in text
    assert "budgetone" in text  # a term and its description


def test_labels_of_points_do_not_overlap() -> None:
    points = [
        plots.Point(f"tf_efficientnet_lite{k}", 10 + k / 5, 80 + k / 4, 77, 86, "other", "")
        for k in range(8)
    ]
    x, y = svg.Scale(5, 30, 46, 368, log=True), svg.Scale(75, 90, 242, 22)
    boxes: list[svg.Box] = []
    for mark in plots._labels(points, x, y):
        if mark.startswith("<text"):
            left, bottom = (float(mark.split(f' {key}="')[1].split('"')[0]) for key in "xy")
            width = 5.9 * len("tf_efficientnet_lite0")
            boxes.append((left, bottom - 11, left + width, bottom + 3))
    assert len(boxes) >= 6
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(svg.meet(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (77.1, 86.4, [78, 80, 82, 84, 86])],
)
def test_linear_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert svg.linear_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(("low", "high"), [(8.0, 14.0), (1e-6, 10.0), (3.0, 300.0), (9.0, 9.5)])
def test_log_ticks_stay_inside(low: float, high: float) -> None:
    ticks = svg.log_ticks(low, high)
    assert all(low <= tick <= high for tick in ticks)
    assert 1 <= len(ticks) <= 8


def test_numbers_read_well() -> None:
    shown = [formats.metric(4_653_210), formats.metric(3.87e8), formats.duration(3725),
             formats.duration(61.5), formats.megabytes(18.49), formats.percent(None),
             formats.general(1e-05)]  # fmt: skip
    assert [text.replace("\u202f", " ") for text in shown] == [
        "4.65 M", "387 M", "1 h 02 min", "1 min 02 s", "18.5 MB", "–", "1e−5",
    ]  # fmt: skip
