"""The shortlist and the drafts of `fit`: which backbones are tried, and in which studies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headstart.errors import WeightsError
from headstart.models.catalogue import BackboneInfo
from headstart.recipe import load_study
from headstart.selection import shortlist
from headstart.selection.drafting import (
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    Photos,
    draft_probes,
    draft_tuned,
    epochs_that_fit,
    to_toml,
)

SMALL = BackboneInfo("small", "", 10**6, 3 * 10**8, 224, 20, 4.0, 70.0, 224, "stored, registry")
BETTER = replace(SMALL, name="better", macs=4 * 10**8, imagenet_top1=75.0)
OLD = replace(SMALL, name="old", macs=15 * 10**9, imagenet_top1=71.0)
LARGE = replace(SMALL, name="large", macs=5 * 10**9, imagenet_top1=82.0, providers="hub")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    infos = {info.name: info for info in (SMALL, BETTER, OLD, LARGE)}
    monkeypatch.setattr(shortlist, "describe_backbones", lambda n, say: [infos[i] for i in n])
    monkeypatch.setattr(shortlist, "describe_hub_weights", lambda name: None)
    monkeypatch.setattr(shortlist, "describe_providers", lambda name, hub: infos[name].providers)
    monkeypatch.setattr(shortlist, "hub_answers", lambda: False)
    return list(infos)


def names(images: int, seconds: float, offered: list[str]) -> list[str]:
    found = shortlist.make_shortlist(images, seconds, rate=3e10, offered=offered)
    return [info.name for info in found.chosen]


def test_a_backbone_is_left_out_where_a_better_one_costs_half(offered: list[str]) -> None:
    found = shortlist.make_shortlist(100, 600, rate=3e10, offered=offered)
    assert [info.name for info in found.chosen] == ["better", "small"]  # by published accuracy
    assert [line.partition(":")[0] for line in found.left_out] == ["large", "old"]
    assert "cannot be reached" in found.left_out[0]
    assert "better is better on ImageNet" in found.left_out[1]


def test_the_hub_brings_larger_ones_where_it_answers(
    offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "hub_answers", lambda: True)
    assert names(100, 600, offered) == ["large", "better", "small"]
    assert names(5_000, 600, offered) == ["better", "small"]  # 14 minutes for one pass


def test_the_cheapest_stays_however_short_the_time(offered: list[str]) -> None:
    assert names(10**6, 1, offered) == ["small"]


def test_no_reachable_weights_is_one_line(offered: list[str]) -> None:
    with pytest.raises(WeightsError, match="no pretrained weights can be reached"):
        names(100, 600, ["large"])


def test_epochs_grow_with_the_time_left() -> None:
    counts = [epochs_that_fit(seconds, 10.0) for seconds in (10, 100, 150, 10_000)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == MOST_EPOCHS
    assert all(count == 0 or count >= FEWEST_EPOCHS for count in counts)


@pytest.mark.parametrize(
    ("counts", "runs", "metric"),
    [((50, 50), ["a-probe", "b-probe"], "accuracy"),
     ((90, 10), ["a-probe", "a-probe-weighted", "b-probe", "b-probe-weighted"], "macro_f1")],
)  # fmt: skip
def test_unequal_classes_are_judged_by_class(
    counts: tuple[int, ...], runs: list[str], metric: str
) -> None:
    study = draft_probes("x", Photos({"source": "folder:x"}, counts, 500), ["a", "b"])
    recipes = study.recipes()
    assert [recipe.name for recipe in recipes] == runs
    assert {recipe.chooses_by for recipe in recipes} == {metric}


def test_a_draft_reads_back_as_the_same_study(tmp_path: Path) -> None:
    probes = draft_probes("x", Photos({"source": "folder:x"}, (9, 9), 4), ["resnet50", "vgg16"])
    study = draft_tuned(probes, {"resnet50": 3})
    assert {recipe.evaluation.folds for recipe in study.recipes()} == {5}  # four test images
    path = tmp_path / "study.toml"
    path.write_text(to_toml(study))
    assert load_study(path).recipes() == study.recipes()
    assert [recipe.phases[-1].epochs for recipe in study.recipes()] == [None, None, 3]
