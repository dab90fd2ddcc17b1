"""Cheap evidence on a candidate: a linear probe of its frozen features on a few training images.

The images are the lowest ranks of each class of train. So the images of a round are among those of
the next one, and the boundary cache computes each image once. Validation and test are not used. For
each fold, a probe is solved on the other folds and predicts this one, so every image is evidence.
The results and their seconds are remembered in the cache folder, for this machine: a selection that
is repeated continues from there and decides the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from headstart.data import ImageSet, Splits, load_data
from headstart.data.sources.places import is_photos
from headstart.data.splits import ranks
from headstart.errors import HeadstartError, RunError
from headstart.evaluation.many_labels import predictions_of
from headstart.evaluation.transferability import logme
from headstart.evaluation.values import image_values
from headstart.features.cache import BoundaryCache
from headstart.features.engines import compile_prefix, engine_name
from headstart.files import cache_root, recall, remember
from headstart.machine.progress import Reporter
from headstart.machine.runtime import (
    Runtime,
    create_runtime,
    full_float32,
    machine,
    within_device_memory,
)
from headstart.models.anatomy import backbone_macs
from headstart.models.backbones import Backbone, load_backbone
from headstart.models.catalogue import imagenet_top1
from headstart.models.identity import Weights
from headstart.plan.plan import make_plan
from headstart.recipe import Recipe
from headstart.selection.candidates import Candidate, Evidence, Selection
from headstart.selection.halving import select
from headstart.selection.workload import workload
from headstart.specs import AugmentSpec, DataSpec
from headstart.training.folds import assign_folds, cross_fit
from headstart.training.solver import Table
from headstart.views.transforms import Transform
from headstart_predict.framing import CROP

FORMAT = 2  # raise it when the same key would give other evidence
FOLDS = 3
START, START_IMAGES = 25, 200  # of the first round: images in each class, and the least in all


@dataclass(frozen=True)
class Prepared:
    """All that a candidate's evidence is computed from. transform: without augmentation."""

    recipe: Recipe
    weights: Weights
    transform: Transform
    runtime: Runtime


class EvidenceSource:
    """Evidence for the candidates of one study, always on the same training images.

    The study's first recipe decides which images these are. Validation and test are not used.
    """

    def __init__(
        self, first: Recipe, device: str, cache_limit_gb: float | None, reporter: Reporter
    ) -> None:
        self._device, self._limit, self._reporter = device, cache_limit_gb, reporter
        self._shared = {name: getattr(first.data, name) for name in ("train_limit", "val_fraction")}
        self._prepared: dict[str, Prepared] = {}
        self._opened: dict[DataSpec, Splits] = {}

    def prepare(self, recipe: Recipe) -> Candidate:
        """The candidate of a recipe. Raises HeadstartError if the recipe cannot be run."""
        runtime = create_runtime(self._device, self._limit, recipe.precision)
        plan = make_plan(recipe, runtime, self._reporter, self._splits)
        work, weights = workload(plan), plan.weights
        prepared = Prepared(plan.recipe, weights, plan.transform.plain, runtime)
        self._prepared[recipe.name] = prepared
        return Candidate(
            name=recipe.name,
            fingerprint=plan.fingerprint,
            backbone=plan.recipe.backbone,
            evidence=None if weights.path is None else _features_key(prepared),
            top1=None if weights.path is None else imagenet_top1(weights.identity.name),
            macs=backbone_macs(weights.identity.name, plan.size),
            passes=work.passes,
            steps=work.steps,
            chooses_by=plan.recipe.chooses_by,
            solved=round(work.solved / (FOLDS - 1)),  # each fold's path reads the other folds
        )

    def levels(self) -> list[int]:
        """Images per class in each round: twice as many as in the round before, up to all."""
        images, places = self._of_first()
        most, classes = int(places.max()) + 1, len(np.unique(images.strata))
        levels = [max(START, -(-START_IMAGES // classes))]
        while levels[-1] < most:
            levels.append(2 * levels[-1])
        return [*levels[:-1], most]

    def images(self, per_class: int) -> int:
        """All images of a round with so many per class."""
        _, places = self._of_first()
        return int((places < per_class).sum())

    def __call__(self, candidate: Candidate, per_class: int) -> Evidence:
        """The candidate's evidence on so many images per class, remembered or computed now."""
        prepared = self._prepared[candidate.name]
        images, places = self._ranked(prepared.recipe.data)
        path = _path(prepared, images.pick(places < per_class))
        if remembered := _read(path):
            return remembered
        started = time.perf_counter()
        bounds = [0, *(level for level in self.levels() if level <= per_class)]
        # The new images of a round are their own entry in the boundary cache.
        steps = pairwise(bounds)
        chosen = [np.flatnonzero((places >= low) & (places < high)) for low, high in steps]
        watch = _Stopwatch(self._reporter)
        with within_device_memory():
            features = _features(prepared, [images.pick(rows) for rows in chosen], watch)
        passed = time.perf_counter()
        order = np.concatenate(chosen)
        labels, strata = images.labels[order], images.strata[order]
        many = labels.ndim == 2
        fewest = int(np.bincount(strata)[np.unique(strata)].min())
        if many:  # a stratum is no class: one of a single image harms nothing
            fewest = FOLDS
        if fewest < 2:
            raise RunError("a class has fewer than two training images: nothing can be held out")
        folds = places[order] % min(FOLDS, fewest)
        if images.groups is not None:
            seed = prepared.recipe.data.split_seed
            folds = assign_folds(strata, images.keys[order], seed, images.groups[order])
        hits = _held_out_hits(features, labels, folds)
        classes = images.labels.shape[1] if many else int(images.labels.max()) + 1
        score = logme(features, labels, classes)
        done = time.perf_counter()
        evidence = Evidence(
            hits=hits,
            logme=score,
            macs=candidate.macs,
            seconds=done - started,
            setup_s=passed - started - watch.seconds,
            solve_s=done - passed,
            images_per_s=watch.images / watch.seconds,
            labels=None if many else labels,
        )
        _write(path, evidence)
        reached = f"{evidence.accuracy:.1%}"
        said = f"has an mAP of {reached} on" if many else f"is right on {reached} of"
        self._reporter.say(
            f"{candidate.name}: a linear probe {said} {evidence.images:,} held-out training images "
            f"(LogME {score:.3f}, {evidence.seconds:.1f} s)"
        )
        return evidence

    def _of_first(self) -> tuple[ImageSet, np.ndarray]:
        return self._ranked(next(iter(self._prepared.values())).recipe.data)

    def _ranked(self, data: DataSpec) -> tuple[ImageSet, np.ndarray]:
        """The training images of the study at a candidate's size, and their ranks."""
        images = self._splits(data.model_copy(update=self._shared)).train
        return images, ranks(images, data.split_seed)

    def _splits(self, data: DataSpec) -> Splits:
        if not is_photos(data.source):  # only the pixels of photos depend on the size
            data = data.model_copy(update={"size": None})
        plain = data.model_copy(update={"augment": AugmentSpec(), "resize_via": ()})
        if plain not in self._opened:
            self._opened[plain] = load_data(plain, progress=self._reporter.transfer)
        return self._opened[plain]


def choose_finalists(
    recipes: Sequence[Recipe],
    budget_s: float,
    device: str,
    cache_limit_gb: float | None,
    reporter: Reporter,
) -> tuple[Selection, list[Candidate]]:
    """The selection of the recipes that get full runs, and all candidates in the study's order.

    A recipe that cannot be run is one of the selection's failures. Raises RunError where the budget
    is too small for any full run.
    """
    source = EvidenceSource(recipes[0], device, cache_limit_gb, reporter)
    candidates, failures = [], {}
    for recipe in recipes:
        try:
            candidates.append(source.prepare(recipe))
        except HeadstartError as error:
            failures[recipe.name] = str(error)
    if not candidates:
        raise RunError("; ".join(f"{name}: {why}" for name, why in failures.items()))
    selection = select(candidates, budget_s, source.levels(), source)
    selection.failures = {**failures, **selection.failures}
    return selection, candidates


class _Stopwatch(Reporter):
    """Passes tracking on to a reporter, and counts the tracked images and seconds."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.images, self.seconds = 0, 0.0

    @contextmanager
    def track(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        with self._reporter.track(label, total, unit) as advance:
            started, first = time.perf_counter(), True

            def count(done: int) -> None:
                nonlocal first
                self.images += 0 if first else done  # the first call is about existing rows
                first = False
                advance(done)

            yield count
            self.seconds += time.perf_counter() - started


def _features(prepared: Prepared, parts: list[ImageSet], watch: _Stopwatch) -> np.ndarray:
    """float32 (images, d): pooled features of the parts, one after the other."""
    recipe, runtime = prepared.recipe, prepared.runtime
    backbone = load_backbone(prepared.weights, size=prepared.transform.preprocess.size)
    top = len(backbone.stages())
    calibration = parts[0]  # the same in every round, so that the cache keys stay the same
    cache = BoundaryCache(backbone, top, prepared.transform, runtime, watch, calibration)
    label = f"{recipe.name}: a look at"
    rows = [cache.rows(part, label=f"{label} {len(part):,} images").array for part in parts]
    if not watch.images:  # all rows are from an interrupted selection that stored no seconds
        _time_again(prepared, backbone, parts[-1], watch)
    return np.concatenate([array.reshape(len(array), -1) for array in rows])


def _time_again(
    prepared: Prepared, backbone: Backbone, images: ImageSet, watch: _Stopwatch
) -> None:
    def inputs(batch: int) -> Iterator[torch.Tensor]:
        for first in range(0, len(images), batch):
            rows = np.arange(first, min(first + batch, len(images)))
            pixels = prepared.runtime.place(images.read(rows))
            yield prepared.transform(pixels, images.keys[rows])

    size, top = prepared.transform.preprocess.size, len(backbone.stages())
    runtime = prepared.runtime
    prefix = compile_prefix(backbone, top, size, runtime, calibration=inputs(1))
    with watch.track(f"{prepared.recipe.name}: timing", len(images), "images") as advance:
        advance(0)
        for outputs in prefix.run(inputs(prefix.engine.batch)):
            advance(len(outputs))


def _held_out_hits(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """bool (n,): whether a linear probe of the other folds is right on each image; of several
    labels an image, float values whose mean is mAP."""
    many = labels.ndim == 2
    pool = Table(torch.from_numpy(features), torch.from_numpy(labels))
    with full_float32():
        crossed = cross_fit(pool, folds, labels.shape[1] if many else int(labels.max()) + 1)
    if many:
        made = predictions_of(np.arange(len(labels)), labels, crossed.logits.numpy())
        return image_values(made, "mean_ap")
    hits: np.ndarray = (crossed.logits.argmax(dim=1) == pool.labels).numpy()
    return hits


def _features_key(prepared: Prepared) -> str:
    """A key of everything that decides a candidate's features, except the images."""
    identity = prepared.weights.identity
    key = {
        "format": FORMAT,
        "weights": [identity.name, identity.sha256],
        "engine": engine_name(prepared.runtime),
        **prepared.transform.describe(),
    }
    if prepared.recipe.data.framing != CROP:  # named only then, as in the boundary cache
        key["framing"] = prepared.recipe.data.framing
    return json.dumps(key, sort_keys=True)


def _path(prepared: Prepared, images: ImageSet) -> Path:
    """The file that remembers this evidence. Its seconds are valid for this machine only."""
    here = f"{machine()['cores']} cores of {machine()['cpu']}"
    folds = f"{FOLDS} folds"
    if images.groups is not None:
        folds += f" of {hashlib.sha256(images.groups.tobytes()).hexdigest()}"
    key = "\n".join([_features_key(prepared), images.fingerprint, here, folds])
    return cache_root() / "evidence" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _read(path: Path) -> Evidence | None:
    known = recall(path)
    if known is None:
        return None
    saved, labels = known.pop("hits"), known.pop("labels")
    if isinstance(saved, list):
        return Evidence(hits=np.array(saved), **known)
    hits = np.array([digit == "1" for digit in saved])
    return Evidence(hits=hits, labels=np.array(labels, np.int64), **known)


def _write(path: Path, evidence: Evidence) -> None:
    hits: str | list[float] = "".join("1" if hit else "0" for hit in evidence.hits)
    if evidence.hits.dtype != bool:
        hits = evidence.hits.tolist()
    labels = [] if evidence.labels is None else evidence.labels.tolist()
    remember(path, {**vars(evidence), "hits": hits, "labels": labels})
