"""The report's sections: what a comparison and its runs know is said, and nothing is made up."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.comparison.records import (
    Baseline,
    CandidateScore,
    Comparison,
    Dropped,
    Limits,
    Regret,
    Round,
    Selected,
)
from headstart.evaluation.metrics import confusion_matrix
from headstart.files import parse_json
from headstart.report import write_report
from headstart.report.contenders import find_contenders, match_runs
from headstart.report.sections.costs import describe_limits
from headstart.report.sections.definitions import definitions
from headstart.report.sections.feature_map import describe_map
from headstart.report.sections.pairs import describe_pairs
from headstart.report.sections.pictures import confused_pairs
from headstart.report.sections.selection import describe_selection
from headstart.rundir.run import Run
from tests.unit.test_report import Page, read

Study = tuple[list[Run], Comparison]
SECTIONS = ("pairs", "cost", "limits", "calibration", "learning", "corruptions", "duplicates")


@pytest.fixture(scope="module")
def page(pixels: Study, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(write_report(pixels[0], tmp_path_factory.mktemp("page"), pixels[1]))


def words(page: Page) -> str:
    return " ".join(page.text.replace("\u202f", " ").split())


def contenders(study: Study) -> list[Any]:
    return find_contenders(study[1], match_runs(study[1].rows, study[0]))


def test_everything_that_is_known_has_a_section(page: Page) -> None:
    assert set(SECTIONS) <= set(page.ids)
    links = {ref[1:] for ref in page.references if ref.startswith("#")}
    assert set(SECTIONS) - {"limits"} <= links <= set(page.ids)
    for heading in ("Feature map", "What the answers rest on", "Least sure answers",
                    "Most confused pairs", "Corrupted images"):  # fmt: skip
        assert page.text.count(heading) >= 6, heading


def test_the_verdict_goes_first_and_nobody_is_crowned_by_noise(pixels: Study, page: Page) -> None:
    assert pixels[1].winner is None
    start = words(page).split("Headstart report")[1]
    assert start.split("results ")[1].startswith(pixels[1].verdict)
    assert "Winner" not in page.text
    assert "winner" not in page.text.split("Leaderboard")[1].split("Definitions")[0]
    assert "validation’s choice" in page.text


def test_a_winner_beyond_chance_is_crowned(pixels: Study, tmp_path: Path) -> None:
    first = pixels[1].configurations[0].name
    crowned = replace(pixels[1], winner=first)
    text = words(read(write_report(pixels[0], tmp_path, crowned)))
    assert f"Winner{first}" in text


def test_the_board_has_a_line_a_configuration_with_its_runs(pixels: Study, page: Page) -> None:
    text = words(page)
    for configuration in pixels[1].configurations:
        low, high = (f"{100 * bound:.1f}" for bound in configuration.interval)
        mean, sd = 100 * configuration.accuracy, 100 * configuration.sd
        assert f"{mean:.1f} % [{low}, {high}]mean of 2 seeds, sd {sd:.1f}" in text
        assert f"group {configuration.group}" in text


def test_pairs_are_the_rows_minus_the_columns(pixels: Study) -> None:
    pairs = describe_pairs(pixels[1], contenders(pixels))
    assert pairs is not None
    first, second, third = (c.name for c in pixels[1].configurations)
    assert [row.name for row in pairs.rows] == [first, second]
    assert pairs.columns == [second, third]
    assert pairs.rows[1].cells[0] is None
    known = {(p.first, p.second): p for p in pixels[1].pairs}[first, third]
    cell = pairs.rows[0].cells[1]
    assert cell is not None
    assert cell.change == f"{-100 * known.change:+.1f}"
    low, high = known.interval
    assert cell.interval == f"[{-100 * high:+.1f}, {-100 * low:+.1f}]".replace("-", "−")
    assert cell.apart is known.told_apart
    cells = [cell for row in pairs.rows for cell in row.cells if cell]
    assert sum(cell.apart for cell in cells) == sum(p.told_apart for p in pixels[1].pairs)


def test_the_best_under_a_limit_is_validations(pixels: Study) -> None:
    limits = describe_limits(
        replace(pixels[1], limits=Limits(5.0, None, "colours", (), "")), contenders(pixels)
    )
    assert limits is not None
    assert limits.asked == "Asked for at most 5\u202fms an image: take colours."
    for table in limits.tables:
        steps = [(s.limit, s.contender.val_accuracy) for s in table.steps]
        assert len(steps) > 1
        assert steps == sorted(steps)
    none = describe_limits(
        replace(pixels[1], limits=Limits(0.1, None, None, (), "")), contenders(pixels)
    )
    assert none is not None
    assert str(none.asked).endswith("none fits.")


def test_calibration_is_shown_before_and_after(pixels: Study, page: Page) -> None:
    text = words(page)
    for configuration in pixels[1].configurations:
        runs = [run for run in pixels[0] if run.name in configuration.runs]
        before, after = (
            np.mean([getattr(run.metrics.test, key).ece for run in runs])
            for key in ("calibration", "calibrated")
        )
        assert f"{100 * before:.1f} % → {100 * after:.1f} %" in text


def test_lines_have_a_shape_of_their_own(pixels: Study, tmp_path: Path) -> None:
    html = write_report(*_given(pixels, tmp_path)).read_text(encoding="utf-8")
    learning = html.split('id="learning"')[1].split("</section>")[0]
    keys = re.findall(r'class="sample".*?</svg>', learning.split("<ul")[1].split("</ul>")[0])
    shapes = [re.sub(r"[\d.]+", "", re.sub(r" s\d", "", key)) for key in keys]
    assert len(shapes) == len(set(keys)) == 3
    assert "circle" in shapes[0]
    assert "polygon" in shapes[1]


def _given(study: Study, out: Path) -> tuple[list[Run], Path, Comparison]:
    return study[0], out, study[1]


def test_only_terms_that_are_linked_are_defined_and_all_of_them(page: Page) -> None:
    terms = {entry.term for entry in definitions(tested=True)}
    assert len(terms) == len(definitions(tested=True)) >= 28
    defined = {name[4:] for name in page.ids if name.startswith("def-")}
    linked = {ref[5:] for ref in page.references if ref.startswith("#def-")}
    assert defined == linked <= terms
    assert {"ece", "pairs", "detectable", "learning", "map"} <= defined
    assert "selection" not in defined
    assert page.text.count("From predictions/test.npz; metrics.json") >= 3


def test_selection_tells_who_was_dropped_and_why(pixels: Study, tmp_path: Path) -> None:
    names = ("pixels-8", "pixels-16", "colours")
    scores = dict(zip(names, (0.3, 0.28, 0.2), strict=True))
    few = [CandidateScore(n, scores[n], 2.0, n != "colours", None) for n in names]
    more = [CandidateScore(n, scores[n] + 0.1, 8.0, n == "pixels-16", None) for n in names[:2]]
    selection = Selected(
        budget_s=60.0, balanced=False, spent_s=30.0, full_cost_s=120.0,
        rounds=(Round("few labels", "10 images a class", tuple(few)),
                Round("more labels", "50 images a class", tuple(more))),
        dropped=(Dropped("colours", "few labels", "10 points behind"),
                 Dropped("pixels-8", "more labels", "slower for the same")),
        failed={}, carried_out={}, estimates={}, baseline=Baseline(names, "pixels-8", None),
        regret=Regret(0.021, (0.0, 0.04), "pixels-8", "two points below the best of all."),
    )  # fmt: skip
    budgeted = replace(pixels[1], selection=selection)
    found = describe_selection(budgeted)
    assert found is not None
    assert [row.name for row in found.rows] == ["pixels-16", "pixels-8", "colours"]
    assert [row.name for row in found.rows if row.why is None] == ["pixels-16"]
    text = words(read(write_report(pixels[0], tmp_path, budgeted)))
    assert "30.0 s spent of a budget of 1 min 00 s" in text
    assert "colours20.0 % ✗2.00 s 10 points behind" in text
    assert "Regret 2.1 points: two points below" in text
    assert describe_selection(pixels[1]) is None


def test_a_feature_map_names_each_class_once_and_thins_out(pixels: Study) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 10
    centres = np.array([(np.cos(k), np.sin(k)) for k in np.arange(10) * 0.628]) * 9
    arrays = {"xy": (centres[labels] + rng.normal(size=(4000, 2))).astype("f4"), "labels": labels,
              "predicted": np.where(rng.random(4000) < 0.1, 0, labels)}  # fmt: skip
    names = [f"class {k}" for k in range(10)]
    found = describe_map(arrays, names)
    assert found is not None
    assert (found.n, found.of, len(found.legend)) == (1500, 4000, 10)
    assert all(found.svg.count(f">{name}</text>") == 1 for name in names)
    assert found.svg.count("h0") == 1500
    wide = describe_map({**arrays, "labels": np.arange(4000) % 40}, [str(k) for k in range(40)])
    assert wide is not None
    assert wide.legend == []
    kin = [f"{word} {k:02}" for word in ("oak", "elm") for k in range(20)]
    grouped = describe_map({**arrays, "labels": np.arange(4000) % 40}, kin)
    assert grouped is not None
    assert [entry.name for entry in grouped.legend] == ["oak", "elm"]
    assert sum(entry.n for entry in grouped.legend) == 1500
    assert all(f">{word}</text>" in grouped.svg for word in ("oak", "elm"))
    assert describe_map({}, names) is None
    ids = np.array([f"test/{k}.jpg" for k in range(4000)])
    hinted = describe_map({**arrays, "ids": ids}, names)
    assert hinted is not None
    tips = re.findall(r"<title>test/(\d+)\.jpg: class (\d) taken for class 0</title>", hinted.svg)
    assert len(tips) == min(hinted.wrong, 100) > 50
    assert all(int(row) % 10 == int(label) for row, label in tips)


def test_pairs_of_classes_come_with_their_counts(pixels: Study) -> None:
    run = pixels[0][0]
    confusion = confusion_matrix(run.predictions("test"))
    groups = confused_pairs(run, run.class_names, confusion)
    off = confusion - np.diag(np.diag(confusion))
    assert groups[0].count == off.max()
    assert all(g.of == 50 and len(g.tiles) <= 4 for g in groups)


def test_a_run_alone_shows_its_own_calibration(pixels: Study, tmp_path: Path) -> None:
    page = read(write_report(pixels[0][:1], tmp_path))
    assert "calibration" not in page.ids
    assert any(str(label).startswith("Reliability of") for label in page.labels)
    assert {"learning", "corruptions", "duplicates"} <= set(page.ids)


def test_equal_runs_give_equal_bytes_under_five_megabytes(pixels: Study, tmp_path: Path) -> None:
    first = write_report(pixels[0], tmp_path / "1", pixels[1])
    again = [Run(run.path) for run in pixels[0]]
    second = write_report(
        again, tmp_path / "2", parse_json(json.dumps(pixels[1].to_json()), Comparison, "it")
    )
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size / len(pixels[0]) < 500_000  # ten runs: under 5 MB
