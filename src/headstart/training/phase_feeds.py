"""The feeds of one phase: from the boundary cache, or from pixels where nothing is cached."""

from __future__ import annotations

import time
from functools import cached_property

from headstart.data import ImageSet
from headstart.features.cache import BoundaryCache, CachedRows
from headstart.features.feeds import CachedFeed, Feed, PixelFeed
from headstart.machine.progress import Reporter
from headstart.models.backbones import Backbone
from headstart.plan.plan import PhasePlan, Plan
from headstart.rundir.history import Extract
from headstart.rundir.run import Run


class PhaseFeeds:
    """Feeds of one phase. Their frozen passes are logged with the run."""

    def __init__(
        self, plan: Plan, phase: PhasePlan, backbone: Backbone, run: Run, reporter: Reporter
    ) -> None:
        self.phase = phase
        self._plan, self._backbone, self._run, self._reporter = plan, backbone, run, reporter
        self._made: dict[str, Feed] = {}

    @property
    def start(self) -> int:
        """The stage at which the feeds' rows enter: the boundary, or 0 for pixels."""
        return self.phase.freeze.boundary if self._cached else 0

    @cached_property
    def _cached(self) -> bool:
        number = self.phase.number
        if begun := self._run.history.begun.get(number):
            return begun.cached  # a resumed phase must do the same, for equal bits
        if self.phase.cache is not None:
            self._reporter.say(f"phase {number + 1}: a boundary cache of {self.phase.cache}")
        elif self.phase.views:
            self._reporter.warn(
                f"phase {number + 1}: the boundary cache has no room, so every epoch computes the "
                f"frozen stages again: {self.phase.recomputed}"
            )
        return self.phase.cache is not None

    @cached_property
    def _cache(self) -> BoundaryCache:
        plan = self._plan
        return BoundaryCache(
            self._backbone,
            self.phase.freeze.boundary,
            plan.transform,
            plan.runtime,
            self._reporter,
            plan.splits.train,
        )

    def train(self) -> Feed:
        augmented = self._plan.transform.augment.active
        return self._once("train", self._plan.splits.train, self.phase.views if augmented else None)

    def plain(self, split: str) -> Feed:
        """The feed of a split, not augmented."""
        return self._once(split, getattr(self._plan.splits, split), None)

    def once(self, images: ImageSet, label: str) -> Feed:
        """A feed that leaves nothing on the disk and nothing in the log."""
        if not self._cached:
            return self._from_pixels(images, 0)
        return self._from_rows(images, self._cache.rows(images, label=label, keep=False))

    def _once(self, split: str, images: ImageSet, views: int | None) -> Feed:
        if split not in self._made:
            self._made[split] = self._feed(split, images, views)
        return self._made[split]

    def _feed(self, split: str, images: ImageSet, views: int | None) -> Feed:
        if not self._cached:
            return self._from_pixels(images, views or 0)
        started = time.perf_counter()
        label = f"frozen pass over {split}"
        rows = self._cache.rows(images, views=views, label=label, exact=split == "test")
        seconds = time.perf_counter() - started
        count = rows.computed
        self._run.append_log(
            Extract(
                phase=self.phase.number,
                split=split,
                images=count,
                seconds=seconds,
                cached=rows.hit,
                entry=rows.entry,
                entry_seconds=rows.seconds,
            )
        )
        if rows.hit:
            held = len(images) * (views or 1)
            self._reporter.say(f"frozen pass over {split}: {held:,} rows from the cache")
        else:
            self._reporter.say(
                f"frozen pass over {split}: {count:,} images in {seconds:.1f} s "
                f"({count / seconds:,.0f} images/s)"
            )
        return self._from_rows(images, rows)

    def _from_pixels(self, images: ImageSet, views: int) -> PixelFeed:
        plan = self._plan
        return PixelFeed(images, plan.transform, plan.runtime, views, plan.recipe.seed)

    def _from_rows(self, images: ImageSet, rows: CachedRows) -> CachedFeed:
        seed, runtime = self._plan.recipe.seed, self._plan.runtime
        return CachedFeed(rows.array, images.labels, images.keys, seed, runtime, rows.release)
