"""The feeds of one phase: from the boundary cache, or from pixels where it has no room or use."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from headstart.data import ImageSet
from headstart.models.freezing import FreezePlan
from headstart.specs import PhaseSpec
from headstart.training.cache import BoundaryCache, CachedRows, cache_or_recompute, footprint
from headstart.training.feeds import CachedFeed, Feed, PixelFeed

if TYPE_CHECKING:
    from headstart.training.phases import Training


class PhaseFeeds:
    """Feeds for one phase: from the boundary cache, or from pixels."""

    def __init__(self, training: Training, number: int, phase: PhaseSpec, plan: FreezePlan) -> None:
        self._training, self.number = training, number
        self._views = (phase.views or 0) if training.transform.augment.active else 1
        if not plan.boundary:  # nothing to cache, so nothing to gain from seeing a view again
            self._views = 0
        self._made: dict[str, Feed] = {}
        cached = plan.boundary > 0 and phase.views != 0
        self._cache = self._open_cache(plan, phase) if cached else None
        self.start = plan.boundary if self._cache else 0

    def _open_cache(self, plan: FreezePlan, phase: PhaseSpec) -> BoundaryCache | None:
        """The cache, its size said before it is written; None where there is no room for it."""
        t = self._training
        backbone = t.model.backbone
        cache = BoundaryCache(
            backbone, plan.boundary, t.transform, t.runtime, t.reporter, t.splits.train
        )
        counts = {name: len(getattr(t.splits, name)) for name in ("train", "val", "test")}
        size = t.transform.preprocess.size
        rows = cached_rows(counts, self._views)
        needs = footprint(backbone, plan.boundary, size, rows)
        what = f"phase {self.number + 1}: a boundary cache of {needs}"
        begun = [e for e in t.run.log if e["event"] == "phase" and e["phase"] == self.number]
        if begun:  # a run that is resumed keeps to what it began with, or its bits would differ
            return cache if begun[0]["cached"] else None
        lack = cache_or_recompute(needs, t.runtime, required=phase.optimizer == "lbfgs")
        if lack:
            t.reporter.warn(f"{what}, has no room, so every epoch recomputes it: {lack}")
            return None
        t.reporter.say(what)
        return cache

    def train(self) -> Feed:
        augmented = self._training.transform.augment.active
        return self._once("train", self._training.splits.train, self._views if augmented else None)

    def plain(self, split: str, images: ImageSet) -> Feed:
        """The feed of validation or test, not augmented."""
        return self._once(split, images, None)

    def _once(self, split: str, images: ImageSet, views: int | None) -> Feed:
        if split not in self._made:
            self._made[split] = self._feed(split, images, views)
        return self._made[split]

    def once(self, images: ImageSet, label: str) -> Feed:
        """A feed that leaves nothing on the disk and no extraction in the log."""
        if self._cache is None:
            return self._pixels(images, 0)
        return self._cached(images, self._cache.rows(images, label=label, keep=False))

    def _pixels(self, images: ImageSet, views: int) -> PixelFeed:
        t = self._training
        return PixelFeed(images, t.transform, t.runtime, views, t.recipe.seed)

    def _cached(self, images: ImageSet, rows: CachedRows) -> CachedFeed:
        t = self._training
        return CachedFeed(
            rows.array, images.labels, images.keys, t.recipe.seed, t.runtime, rows.release
        )

    def _feed(self, split: str, images: ImageSet, views: int | None) -> Feed:
        t = self._training
        if self._cache is None:
            return self._pixels(images, views or 0)
        started = time.perf_counter()
        rows = self._cache.rows(images, views=views, label=f"frozen pass over {split}")
        seconds = time.perf_counter() - started
        count = rows.computed
        t.run.append_log(
            {
                "event": "extract",
                "phase": self.number,
                "split": split,
                "images": count,
                "seconds": seconds,
                "cached": rows.hit,
                "entry": rows.entry,
                "entry_seconds": rows.seconds,
            }
        )
        if rows.hit:
            held = len(images) * (views or 1)
            t.reporter.say(f"frozen pass over {split}: {held:,} rows from the cache")
        else:
            t.reporter.say(
                f"frozen pass over {split}: {count:,} images in {seconds:.1f} s "
                f"({count / seconds:,.0f} images/s)"
            )
        return self._cached(images, rows)


def cached_rows(counts: Mapping[str, int], views: int) -> int:
    """Rows a phase caches: every view of train, and validation and test as they are."""
    return counts["train"] * views + counts["val"] + counts["test"]
