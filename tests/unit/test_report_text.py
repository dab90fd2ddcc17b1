"""The report as text: Markdown for a README, and a model card that the hub can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_eval_result, metadata_load

from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import Comparison, Limits, write_comparison
from headstart.errors import RunError
from headstart.files import write_json
from headstart.report.card import render_card, write_card
from headstart.report.inputs import read_inputs
from headstart.report.markdown import render_markdown
from headstart.report.page import render
from headstart.rundir.history import Refit
from headstart.rundir.run import Run, open_run
from tests.fabricating import fabricate, fail, remake

Study = tuple[list[Run], Comparison]


def test_markdown_has_verdict_table_protocol_and_origin(pixels: Study) -> None:
    text = render_markdown(*pixels)
    assert text == render_markdown(*pixels)
    first, _, rest = pixels[1].verdict.partition(". ")
    assert f"**{first}.** {rest}" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    best = pixels[1].configurations[0]
    low, high = (100 * bound for bound in best.interval)
    row = f"| {best.name} | {100 * best.accuracy:.1f} % | [{low:.1f}, {high:.1f}] | 2, sd "
    assert row in lines[2]
    assert "- told apart: " in text
    assert "- data: cifar10-mini" in text
    assert "- commit: " in text


def test_markdown_of_one_run_and_of_failures(tmp_path: Path) -> None:
    one = fabricate(tmp_path / "a", name="alone")
    remake(one, marks=("unit|normalised",))
    lost = fail(tmp_path / "b", "lost", "the hub cannot be reached\nat all")
    text = render_markdown([one, lost])
    assert r"| alone (unit\|normalised) |" in text
    assert "- lost: the hub cannot be reached at all" in text
    assert "No run has finished yet." in render_markdown([lost])


@pytest.fixture(scope="module")
def card(pixels: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_card(pixels[0][0], tmp_path_factory.mktemp("card") / "README.md")


def test_the_hub_reads_the_cards_metadata(pixels: Study, card: Path) -> None:
    run = pixels[0][0]
    data = ModelCard.load(card).data
    assert data.license == "apache-2.0"
    assert data.datasets == ["uoft-cs/cifar10"]
    assert data.pipeline_tag == "image-classification"
    assert "headstart" in data.tags
    results = {result.metric_type: result for result in data.eval_results}
    assert results["accuracy"].metric_value == run.metrics.test.accuracy
    served = run.metrics.test.calibrated
    assert results["loss"].metric_value == pytest.approx(served.loss, abs=1e-6)
    assert set(results) == {"accuracy", "f1", "loss", "expected_calibration_error"}


def test_the_model_index_is_the_hubs_own_form(pixels: Study, card: Path) -> None:
    run = pixels[0][0]
    ours = metadata_load(card)["model-index"]
    hubs = metadata_eval_result(
        model_pretty_name=run.name, task_pretty_name="Image classification",
        task_id="image-classification", metrics_pretty_name="Test accuracy",
        metrics_id="accuracy", metrics_value=run.metrics.test.accuracy,
        dataset_pretty_name="CIFAR-10, a sample of 2,500 images", dataset_id="uoft-cs/cifar10",
        dataset_split="test",
    )["model-index"]  # fmt: skip
    assert ours[0]["name"] == hubs[0]["name"]
    assert {k: ours[0]["results"][0][k] for k in ("task", "dataset")} == {
        k: hubs[0]["results"][0][k] for k in ("task", "dataset")
    }
    verified = {"verified": False}  # which the hub leaves out itself when it writes a card
    assert ours[0]["results"][0]["metrics"][0] | verified == hubs[0]["results"][0]["metrics"][0]


def test_copies_are_duplicates_too_and_not_near_ones_alone(pixels: Study) -> None:
    assert "near duplicates" not in render(*pixels) + render_card(pixels[0][0])


def test_the_cards_body_says_what_it_is_good_for(pixels: Study, card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    for heading in ("Intended use", "Training data", "Training procedure", "Evaluation",
                    "Calibration", "Limitations", "How to use", "Reproduce"):  # fmt: skip
        assert f"\n## {heading}\n" in text, heading
    test = pixels[0][0].metrics.test
    low, high = (f"{100 * bound:.1f}" for bound in test.interval)
    assert f"**{100 * test.accuracy:.1f} %** [{low}, {high}]" in text
    assert f"| accuracy without {test.without_duplicates.left_out} duplicates of " in text
    assert "In brackets 95 % intervals: Wilson's for shares, and for balanced accuracy" in text
    assert "\u202f" not in text
    assert 'source = "cifar10-mini"' in text
    assert render_card(pixels[0][0]) == text


def test_a_card_tells_marks_and_a_licence_of_no_known_name(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "run", name="marked", marks=("unit normalisation",))
    remake(run, weights=replace(run.provenance.weights, licence="Home-made 1.0"))
    text = render_card(run)
    assert "- Mark: unit normalisation." in text
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("other", "home-made 1.0")


def test_a_head_that_was_fitted_to_validation_too_is_said_to_be_so(tmp_path: Path) -> None:
    plain, solved = (fabricate(tmp_path / name, name=name) for name in ("plain", "solved"))
    solved.append_log(Refit(0, 2000, 0.1, 1.0))
    for n, how in ((200, "on validation"), (2000, "by folds of train and validation")):
        val = replace(solved.metrics.val, n=n)
        write_json(solved.path / "metrics.json", replace(solved.metrics, val=val, temperature=1.2))
        card = render_card(open_run(solved.path))
        assert f"a temperature of 1.20, chosen {how}." in card
    assert "- Fitted to: in the end the head to all 2,000 images of train and validation" in card
    assert "Every choice was made on validation, or by folds of train and validation; the" in card
    assert "Fitted to" not in render_card(plain)
    protocol = build_comparison("two", [plain, solved], [], tmp_path).protocol
    assert protocol["images"].endswith(
        "1,800 training and 200 validation images; the head of 1 of 2 runs was fitted to both in "
        "the end"
    )
    assert "on validation, or by folds of train and validation" in protocol["choice"]


def test_a_card_of_a_failed_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a model card is of a finished one"):
        render_card(fail(tmp_path / "run", "lost", "no network"))


def test_a_studys_directory_brings_its_name_and_selection(pixels: Study) -> None:
    folder = pixels[0][0].path.parent
    limits = Limits(9.0, None, "colours", (), "")
    write_comparison(replace(pixels[1], name="my-study", limits=limits), folder)
    try:
        runs, compared = read_inputs([folder], folder)
    finally:
        (folder / "comparison.json").unlink()
    assert len(runs) == 6
    assert compared is not None
    assert compared.name == "my-study"
    assert compared.limits == limits


def test_the_verb_writes_each_format(
    pixels: Study, tmp_path: Path, headstart: Callable[..., Any]
) -> None:
    runs = [run.path for run in pixels[0]]
    assert headstart("report", *runs, "--format", "md", "--out", tmp_path / "r.md").code == 0
    assert "| pixels-8 | " in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert headstart("report", runs[0], "--format", "card", "--out", tmp_path / "c.md").code == 0
    assert (tmp_path / "c.md").read_text(encoding="utf-8").startswith("---\n")
    assert headstart("report", *runs, "--out", tmp_path / "r.html").code == 0
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    refused = headstart("report", *runs, "--format", "card")
    assert refused.code == 2
    assert "a model card describes one run, and 6 were given" in refused.err


def test_a_cards_names_with_commas_stay_apart(tmp_path: Path) -> None:
    names = ["oak, front", "elm, side", *(str(k) for k in range(8))]
    run = fabricate(tmp_path / "run", name="trees", class_names=names)
    assert "oak, front; elm, side; 0; 1" in render_card(run)
