"""Contract: training on the cache is training without it, on the same views of the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest
import torch

from headstart.data import load_data
from headstart.features import cache as cache_module
from headstart.features.cache import BoundaryCache
from headstart.features.engines import Engine
from headstart.features.feeds import CachedFeed, Feed, PixelFeed
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import create_backbone
from headstart.models.classifier import Classifier
from headstart.models.freezing import set_training
from headstart.models.heads import create_head
from headstart.rundir.history import Epoch
from headstart.specs import AugmentSpec, BackboneSpec, DataSpec, HeadSpec, PhaseSpec
from headstart.training.loop import FitInputs, FitState, fit, predict_logits
from headstart.training.optimisation import create_optimizer
from headstart.views.mixing import Mixer
from headstart.views.transforms import Transform
from tests.fits import make_phase

RUNTIME = create_runtime("cpu")
AUGMENT = AugmentSpec(flip=True, rotate=20)
VIEWS = 3
Pairs = list[tuple[int, int]]


class Watched(np.ndarray):
    """Cached activations that tell of each read which rows of (images times views) it takes."""

    on_read: Callable[[np.ndarray], None] | None

    def __array_finalize__(self, other: Any) -> None:
        self.on_read = getattr(other, "on_read", None)

    def __getitem__(self, rows: Any) -> Any:
        if self.on_read:
            self.on_read(rows)
        return np.asarray(self)[rows]

    @classmethod
    def over(cls, array: np.ndarray, on_read: Callable[[np.ndarray], None]) -> Self:
        watched = array.view(cls)
        watched.on_read = on_read
        return watched


@dataclass(frozen=True)
class End:
    """What training left: the losses of its epochs, logits, and each batch's (image, view)s."""

    train_loss: list[float]
    val_loss: list[float]
    logits: np.ndarray
    reads: list[Pairs]


def train(spec: BackboneSpec, phase: PhaseSpec, size: int, *, cached: bool, augmented: bool) -> End:
    splits = load_data(DataSpec(source="cifar10-mini", train_limit=200, size=32))
    mixer = Mixer(0.3, 0.3, 5) if augmented else Mixer(0.0, 0.0, 5)
    backbone = create_backbone(spec, size=size)
    torch.manual_seed(0)
    head = create_head(HeadSpec(), num_features=backbone.num_features, num_classes=10)
    plan = make_phase(backbone, phase)
    boundary = plan.freeze.boundary
    model = Classifier(backbone, head)
    model.enter(boundary if cached else 0, boundary)
    set_training(backbone, plan.freeze)
    preprocess = replace(backbone.preprocess, size=size)
    transform = Transform(preprocess, AUGMENT if augmented else AugmentSpec(), seed=1)
    store = BoundaryCache(backbone, boundary, transform, RUNTIME, Reporter())
    reads: list[Pairs] = []

    def note(keys: np.ndarray, views: Any) -> None:
        drawn = np.broadcast_to(views, len(keys))
        reads.append(sorted(set(zip(keys.tolist(), drawn.tolist(), strict=True))))

    def by_rows(keys: np.ndarray, views: int) -> Callable[[np.ndarray], None]:
        return lambda rows: note(keys[rows // views], rows % views)

    feeds: list[Feed] = []
    for images, views in ((splits.train, VIEWS if augmented else None), (splits.val, None)):
        if cached:
            rows = store.rows(images, views=views, label="a")
            array = Watched.over(rows.array, by_rows(images.keys, views or 1))
            feeds.append(CachedFeed(array, images.labels, images.keys, 0, RUNTIME))
        else:
            feeds.append(PixelFeed(images, transform, RUNTIME, views or 1, 0))
    inputs = FitInputs(plan, feeds[0], feeds[1], 50, 1, 0.0, RUNTIME, mixer)
    records: list[Epoch] = []
    call = Transform.__call__

    def noted(self: Transform, pixels: torch.Tensor, keys: np.ndarray, views: Any = 0) -> Any:
        note(keys, views)
        return call(self, pixels, keys, views)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transform, "__call__", noted)
        fit(model, inputs, FitState(), create_optimizer(model, plan), on_epoch=records.append)
        logits = predict_logits(model, feeds[1], RUNTIME)
    losses = [e.train_loss for e in records], [e.val_loss for e in records]
    return End(*losses, logits, reads)


def both(spec: BackboneSpec, phase: PhaseSpec, size: int, *, augmented: bool) -> tuple[End, End]:
    """Cached and uncached: what was read is the same, whatever the precision."""
    cached, fresh = (
        train(spec, phase, size, cached=cached, augmented=augmented) for cached in (True, False)
    )
    assert cached.reads == fresh.reads
    assert len(cached.reads) > phase.epochs * 5  # four batches of 180 images, and validation
    views = {view for batch in cached.reads for _, view in batch}
    assert views == (set(range(VIEWS)) if augmented else {0})
    return cached, fresh


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations are kept in float32 and computed by torch, as an uncached epoch does it."""
    compile_prefix = cache_module.compile_prefix

    def by_torch(*arguments: Any, **named: Any) -> Any:
        return compile_prefix(*arguments, **{**named, "engine": Engine("torch", 50)})

    monkeypatch.setattr(cache_module, "compile_prefix", by_torch)
    monkeypatch.setattr(cache_module, "row_dtype", lambda *_: np.dtype(np.float32))


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("part", ["head", "last_stage", "from:blocks.1.0"])
@pytest.mark.usefixtures("cache", "exact")
def test_in_float32_the_cache_changes_nothing(
    small_backbone: BackboneSpec, part: str, augmented: bool
) -> None:
    # Adam would divide small gradients by their own size, and their rounding with them.
    sgd = {"optimizer": "sgd", "lr": 3e-3, "weight_decay": 0.01}
    phase = PhaseSpec(train=part, epochs=2, norm="frozen", **sgd)
    cached, fresh = both(small_backbone, phase, 32, augmented=augmented)
    assert cached.train_loss == pytest.approx(fresh.train_loss, abs=1e-6, rel=0)
    assert cached.val_loss == pytest.approx(fresh.val_loss, abs=1e-6, rel=0)
    assert cached.logits == pytest.approx(fresh.logits, abs=1e-6, rel=0)
    assert fresh.train_loss[1] < fresh.train_loss[0]
    assert np.ptp(fresh.logits, axis=0).min() > 0.05  # images differ: a mix-up would show


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.usefixtures("cache")
def test_as_it_is_stored_and_computed_by_default_it_changes_little(
    real_weights: str, augmented: bool
) -> None:
    spec = BackboneSpec(name=real_weights, weights="registry")
    phase = PhaseSpec(train="last_stage", epochs=2, lr=1e-3, norm="frozen", weight_decay=0.01)
    cached, fresh = both(spec, phase, 64, augmented=augmented)
    assert cached.train_loss == pytest.approx(fresh.train_loss, abs=5e-3)
    assert cached.val_loss == pytest.approx(fresh.val_loss, abs=2e-2)
    assert np.abs(cached.logits - fresh.logits).mean() < 0.02 * np.abs(fresh.logits).mean()
