"""The report's account of what changed what, from run directories alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from headstart.report import write_report
from headstart.rundir.run import Run
from tests.fabricating import remake
from tests.unit.test_explain import DATA, HEAD, TUNE, plant
from tests.unit.test_report import read


@pytest.fixture
def ladder(tmp_path: Path) -> list[Run]:
    folder = tmp_path / "runs"
    flips = {"flip": True}
    return [
        plant(folder, "as-claimed", 90, data={"size": 32, "normalize": "unit"}),
        plant(folder, "right-scaling", 150, data={"size": 32}),
        plant(folder, "right-size", 300, data={"size": 96}),
        plant(folder, "tuned", 304, data={"size": 96, "augment": flips}, phases=[HEAD, TUNE]),
    ]


def words(path: Path) -> str:
    return " ".join(read(path).text.split())


def test_a_ladder_is_reported_and_drawn(ladder: list[Run], tmp_path: Path) -> None:
    path = write_report(ladder, tmp_path)
    page, text = read(path), words(path)
    assert "changes" in page.ids
    assert "def-change" in page.ids
    assert "as-claimed → right-scaling data.normalize unit → weights +15.0[+11.4, +18.5]" in text
    assert "p < 0.001 22.5 % 37.5 % 9.50 s → 9.50 s" in text
    assert "p = 0.12, maybe chance" in text
    assert "phases.1 added: last_stage" in text
    html = path.read_text(encoding="utf-8")
    bars = re.findall(r'class="bar" x="4.0" y="[\d.]+" width="([\d.]+)"', html)
    assert [float(bar) / 372 for bar in bars] == pytest.approx(
        [90 / 400, 150 / 400, 300 / 400, 304 / 400], abs=1e-3
    )
    assert "as-claimed: data.normalize = unit. Pixels reach" in text
    assert "as-claimed, right-scaling: data.size = 32. The weights were trained at 224" in text
    assert "Instead: --set data.normalize=weights" in text


def test_several_changes_at_once_are_said_to_be(ladder: list[Run], tmp_path: Path) -> None:
    text = words(write_report([ladder[0], ladder[2]], tmp_path))
    assert "size, scaling changed at once: the change cannot be assigned to one of them" in text


def test_a_choice_of_backbones_is_no_ladder(tmp_path: Path) -> None:
    names = ("mobilenetv2_100", "resnet50", "densenet121")
    runs = [plant(tmp_path / "runs", n, backbone={"name": n, "weights": "hub"}) for n in names]
    page = read(write_report(runs, tmp_path))
    assert "changes" not in page.ids
    assert "def-change" not in page.ids
    assert "changes" in read(write_report(runs[:2], tmp_path)).ids


def test_one_run_shows_what_it_gets_wrong(ladder: list[Run], tmp_path: Path) -> None:
    text = words(write_report(ladder[:1], tmp_path))
    assert "What changed what" not in text
    assert "Known to cost accuracy data.normalize = unit. Pixels reach" in text
    for name, size in (("right", 224), ("near", 192)):
        run = plant(tmp_path, name, data={"size": size})
        assert "Known to cost" not in words(write_report([run], tmp_path))


def test_runs_that_cannot_be_explained_still_have_a_page(ladder: list[Run], tmp_path: Path) -> None:
    (ladder[1].path / "predictions" / "test.npz").write_bytes(b"not an archive")
    assert "changes-title" in read(write_report(ladder, tmp_path)).ids  # what is known still shows
    assert "What changed what" not in words(write_report(ladder, tmp_path))
    remake(ladder[2], data=replace(DATA, test_fingerprint="u" * 16))
    assert "What changed what" not in words(write_report([ladder[0], ladder[2]], tmp_path))
