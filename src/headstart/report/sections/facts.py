"""The frame of the page: what was run on what, and the first sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headstart.comparison.choice import Metric
from headstart.comparison.protocol import gather_warnings
from headstart.comparison.records import Comparison
from headstart.evaluation.duplicates import WithoutDuplicates
from headstart.report.contenders import (
    Contender,
    latency_ms,
    manifest_of,
    mean,
    provenance_of,
    recipe_of,
)
from headstart.report.sections.pictures import class_names
from headstart.rundir.records import LeftOut, Metrics, Provenance
from headstart.rundir.run import Run
from headstart.text import formats
from headstart_predict.framing import CROP


@dataclass(frozen=True, slots=True)
class Answer:
    """What the page's first sentences say. n: test images; near: the others within noise."""

    verdict: str | None  # None where runs are only set side by side
    more: str
    winner: str | None
    best: Contender
    n: int
    alone: bool
    near: list[str]
    higher: str
    detectable: str | None
    latency: float | None


def describe_answer(compared: Comparison, contenders: Sequence[Contender]) -> Answer | None:
    """None where nothing finished.

    The comparison's own verdict goes first: it crowns nobody by noise. Without one, the choice of
    validation is named, with all that are within noise of it.
    """
    best = next((c for c in contenders if c.chosen), None)
    if best is None:
        return None
    others = [c for c in contenders if c is not best]
    verdict, stop, more = compared.verdict.partition(". ")
    least = compared.detectable
    return Answer(
        verdict=verdict + stop.rstrip() or None,
        more=more,
        winner=compared.winner,
        best=best,
        n=best.rows[0].n or 0,
        alone=not others,
        near=[c.name for c in others if c.near],
        higher=formats.join_words([c.name for c in others if c.accuracy > best.accuracy]),
        detectable=None if least is None else Metric(compared.select_by).size(least),
        latency=best.mean(latency_ms),
    )


def describe_facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The header's facts; where runs differ, every value they have."""
    images, machines = [], []
    for made in filter(None, map(provenance_of, runs)):
        counts, machine = made.data.counts, made.machine
        images.append(f"{counts.train:,} train / {counts.val:,} val / {counts.test:,} test")
        cores = f"{machine.cores} cores" if machine.cores else ""
        parts = (machine.cpu, cores, machine.device)
        machines.append(", ".join(part for part in parts if part))
    classes = sorted({len(names) for run in runs if (names := class_names(run))})
    seeds = sorted({recipe.seed for recipe in map(recipe_of, runs) if recipe})
    # Most photos are cropped: it is said where some are not.
    framings: set[str] = {recipe.data.framing for recipe in map(recipe_of, runs) if recipe}
    dates = sorted({m.created[:10] for m in map(manifest_of, runs) if m and m.created})
    facts = [
        ("Data", distinct(runs, lambda made: made.data.source)),
        ("Classes", [f"{n:,}" for n in classes]),
        ("Images", _unique(images)),
        ("Framing", sorted(framings) if framings - {CROP} else []),
        ("Seeds", [", ".join(str(seed) for seed in seeds)] if seeds else []),
        ("Machine", _unique(machines)),
        ("Date", [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if dates else []),
    ]
    return [(label, values) for label, values in facts if values]


def describe_warnings(runs: Sequence[Run]) -> list[str]:
    """What the runs warned of, each line once."""
    known = [run for run in runs if manifest_of(run)]
    labels = [recipe.name if (recipe := recipe_of(run)) else run.path.name for run in known]
    return list(gather_warnings(known, labels))


def quarantined(runs: Sequence[Run]) -> list[LeftOut]:
    """Images that were left out, each once."""
    known = filter(None, map(provenance_of, runs))
    found = {bad.path: bad for made in known for bad in made.data.quarantined}
    return [found[path] for path in sorted(found)]


def distinct(runs: Sequence[Run], read: Callable[[Provenance], str | None]) -> list[str]:
    """The values that the runs are made of, sorted."""
    values = {read(made) for run in runs if (made := provenance_of(run))}
    return sorted(value for value in values if value is not None)


@dataclass(frozen=True, slots=True)
class DuplicatesRow:
    """A configuration's accuracy, `raw` on all test images and `kept` without duplicates, a mean
    over its runs. interval: of one run alone. balanced: balanced accuracy without duplicates."""

    name: str
    raw: float
    kept: float
    interval: tuple[float, float] | None
    balanced: float | None
    change: str


@dataclass(frozen=True, slots=True)
class DuplicatesSection:
    """`left_out` test images are duplicates, `n` remain."""

    rows: list[DuplicatesRow]
    n: int
    left_out: int
    source: str


def describe_duplicates(contenders: Sequence[Contender]) -> DuplicatesSection | None:
    """Accuracies with and without the known duplicates; None where nobody looked for any."""
    known = [(c, blocks) for c in contenders if (blocks := [b for m in c.metrics if (b := _of(m))])]
    if not known:
        return None
    rows = []
    for c, blocks in known:
        kept = sum(block.accuracy for block in blocks) / len(blocks)
        rows.append(
            DuplicatesRow(
                name=c.name,
                raw=c.accuracy,
                kept=kept,
                interval=blocks[0].interval if len(blocks) == 1 else None,
                balanced=mean([block.balanced_accuracy for block in blocks]),
                change=formats.points(kept - c.accuracy),
            )
        )
    first = known[0][1][0]
    return DuplicatesSection(rows, first.n, first.left_out, first.source)


def _of(metrics: Metrics) -> WithoutDuplicates | None:
    return metrics.test.without_duplicates


def _unique(texts: Sequence[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]
