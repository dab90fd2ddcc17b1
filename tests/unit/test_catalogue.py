"""The catalogue: depth, costs and scores of backbones, measured once and remembered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from headstart.errors import WeightsError
from headstart.models import catalogue
from headstart.models.anatomy import Anatomy, examine
from headstart.models.catalogue import CURATED, list_backbones


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("name", "depth", "parameters", "macs", "top1"),
    [
        # Depths as the architectures are named; parameters and MACs as published (torchvision:
        # 4.09 and 0.30 billion), less the classifier.
        ("resnet50", 50, 23_508_032, 4_087_136_256, 81.214),
        ("mobilenetv2_100", 53, 2_223_872, 299_494_272, 72.976),
        ("vgg16", 16, 14_714_688, 15_346_630_656, 71.592),
        ("densenet121", 121, 6_953_856, 2_833_137_664, 76.5),
        ("squeezenet1_1", 18, 722_496, 262_623_936, None),
    ],
)
def test_known_networks(
    name: str, depth: int, parameters: int, macs: int, top1: float | None
) -> None:
    (info,) = list_backbones(name)
    assert (info.name, info.depth) == (name, depth)
    assert (info.parameters, info.macs) == (parameters, macs)
    assert info.file_mb == pytest.approx(4e-6 * parameters, abs=0.05)
    assert info.imagenet_top1 == top1
    assert info.size_px == 224


def _examine(build: object) -> Anatomy:
    with torch.device("meta"):
        model = build()  # type: ignore[operator]
    return examine(model, 8)


def test_depth_is_the_longest_way_and_counts_only_weighted_layers() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short = nn.Conv2d(3, 4, 1)
            self.long = nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=True),
                nn.Conv2d(4, 4, 1),
            )
            self.scale = nn.Parameter(torch.ones(1))
            self.query = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            both = (self.short(x) + self.long(x) * self.scale).flatten(2).mT
            # A kernel computed from a parameter is a weight; a product of activations is no layer.
            standardised = self.query.weight - self.query.weight.mean()
            query = nn.functional.linear(both, standardised)
            return nn.functional.scaled_dot_product_attention(query, both, both)

    anatomy = _examine(Branches)
    assert anatomy.depth == 3
    pixels = 8 * 8
    convolutions = pixels * (3 * 4 + 9 * 3 * 4 + 4 * 4)
    assert anatomy.macs == convolutions + pixels * 4 * 4 + 2 * pixels * pixels * 4


def test_a_second_listing_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list_backbones("small_cnn")
    monkeypatch.setattr(catalogue, "_measure", lambda name: pytest.fail(f"measured {name}"))
    assert list_backbones("small_cnn") == first
    assert first[0].providers == "random only"
    (path,) = (Path(catalogue._catalogue_path().parent)).glob("*.json")
    assert list(json.loads(path.read_text())) == ["small_cnn"]


def test_a_damaged_file_is_measured_again() -> None:
    path = catalogue._catalogue_path()
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert [info.name for info in list_backbones("small_cnn")] == ["small_cnn"]


def test_a_remembered_listing_needs_no_torch(tmp_path: Path) -> None:
    list_backbones("small_cnn")
    list_backbones("resnet18")
    code = (
        "import sys; from headstart.models.catalogue import list_backbones; "
        "print(*(list_backbones(n)[0].providers for n in ('small_cnn', 'resnet18')), sep=';'); "
        "assert not {'torch', 'timm'} & set(sys.modules), 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip().startswith("random only;")


def test_patterns_reach_beyond_the_curated_list() -> None:
    found = list_backbones("test_resnet*")
    assert [info.name for info in found] == ["test_resnet"]
    tagged = list_backbones("resnet18.t*")
    assert [(info.name, info.tag, info.imagenet_top1) for info in tagged] == [
        ("resnet18.tv_in1k", "tv_in1k", 69.76)
    ]
    with pytest.raises(
        WeightsError, match=r"no backbone matches 'resnt50\*'; did you mean resnet50"
    ):
        list_backbones("resnt50*")


def test_the_curated_list_is_of_known_names() -> None:
    import timm

    from headstart.models.names import canonical_name

    assert len(CURATED) == len(set(CURATED)) == 28
    assert [canonical_name(name) for name in CURATED] == list(CURATED)
    assert {name for name in CURATED if not timm.is_model(name)} == {"small_cnn", "squeezenet1_1"}


def test_the_table_of_scores_names_real_weights_and_its_source() -> None:
    import timm

    scores = catalogue._imagenet_top1()
    assert len(scores) == 64
    assert set(scores) <= set(timm.list_pretrained())
    assert all(50 < top1 < 100 and size >= 160 for top1, size in scores.values())
    table = Path(catalogue.__file__).parents[1] / "assets" / "imagenet_top1.csv"
    assert "results/results-imagenet.csv" in table.read_text().splitlines()[0]
