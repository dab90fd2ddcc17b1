"""Mistakes that show in a run's own settings: what it departs from, why that costs, what undoes it.

Each rule is arithmetic on the recipe and on what the weights say they expect; none of them looks
at the accuracy, so a finding says what is known to hurt, not how much it hurt here.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from headstart.recipe import Recipe, load_recipe
from headstart.rundir.records import Preprocess, Triple
from headstart.rundir.run import Run
from headstart.specs import PhaseSpec

# Below this share of the size the weights were trained at, the network's shape itself suffers.
FAR_BELOW = 0.5
# Adam moves a weight by at most about its rate a step. A head adds up some thousand pooled features
# of about a half, so its weights must come to some hundredths. Measured on 540 images, 1,280
# features: a travel of 0.05 fits 91 % of the training images, 0.01 only 73 %, 0.002 only 23 %.
LEAST_TRAVEL = 0.02
GOOD_TRAVEL = 0.1
SMALL_BATCH = 32  # images; below it a batch's variance is off by a quarter and more
_REDUCTION = 32  # what nearly every convolutional network divides the sides by
_REDUCTIONS = {"squeezenet1_1": 16}
_NO_BATCH_NORM = re.compile(r"(vit|deit|swin|convnext|squeezenet|vgg\d+(?!\d*_bn))")


@dataclass(frozen=True)
class Finding:
    """One setting beside what it should be. `mistake`: known to cost, not merely different."""

    key: str
    has: str
    wants: str
    why: str
    override: str  # for --set
    suffix: str  # for the name of the run that does it right
    mistake: bool = True


@dataclass(frozen=True)
class Sibling:
    """A run that puts one thing more right than the one before it, and the command for it."""

    name: str
    command: str
    path: str  # where the command leaves it


def expected_preprocess(run: Run) -> Preprocess | None:
    """What the weights were trained with; None for random ones."""
    made = run.provenance
    return None if made.weights.provider == "random" else made.expects


def find_departures(run: Run) -> tuple[Finding, ...]:
    """Where the run departs from what its weights expect, and its mistakes in training."""
    expected = expected_preprocess(run)
    found: list[Finding | None] = []
    if expected is not None:
        found += [_scaling(run, expected), _size(run, expected), _chain(run)]
    found += [
        finding
        for number, phase in enumerate(run.recipe.phases)
        for finding in (_slow_head(run, number, phase), _small_batches(run, number, phase))
    ]
    return tuple(finding for finding in found if finding is not None)


def siblings(run: Run) -> tuple[Sibling, ...]:
    """The runs that would put it right, each with one thing more than the one before."""
    overrides: list[str] = []
    made = []
    for finding in find_departures(run):
        overrides.append(finding.override)
        name = f"{run.name}-{finding.suffix}"
        recipe = load_recipe(run.path, [*overrides, f"name={name}"])
        words = ["run", str(run.path)]
        words += [word for change in (*overrides, f"name={name}") for word in ("--set", change)]
        path = f"runs/{name}-{_fingerprint(recipe, run)}"
        made.append(Sibling(name, f"headstart {shlex.join(words)}", path))
    return tuple(made)


def _fingerprint(recipe: Recipe, run: Run) -> str:
    """Of a recipe that keeps a run's images, weights and precision."""
    made = run.provenance
    return recipe.fingerprint(
        images=made.data.fingerprint,
        weights=made.weights.sha256 or made.weights.provider,
        precision=made.machine.precision,
    )


def _scaling(run: Run, expected: Preprocess) -> Finding | None:
    if run.recipe.data.normalize != "unit":
        return None
    mean, std = _average(expected.mean), _average(expected.std)
    if mean == 0 and std == 1:
        return None  # these weights want plain 0..1
    low, high = -mean / std, (1 - mean) / std
    why = (
        "pixels reach the network as 0..1 where its weights were trained on mean and std-scaled "
        f"ones, {low:.1f}..{high:.1f}"
    )
    moving = any(phase.norm == "train" for phase in run.recipe.phases)
    if _has_batch_norm(run) and not moving:
        why += ": frozen batch norm sees shifted inputs of too little contrast"
    wants = f"weights (mean {mean:.3f}, std {std:.3f})"
    return Finding("data.normalize", "unit", wants, why, "data.normalize=weights", "right-scaling")


def _average(values: Triple) -> float:
    return sum(values) / len(values)


def _size(run: Run, expected: Preprocess) -> Finding | None:
    has, wants = run.recipe.data.size, expected.size
    if has is None or has >= wants:
        return None
    name = run.recipe.backbone.name
    patch = re.search(r"patch(\d+)", name)
    step = int(patch[1]) if patch else _REDUCTIONS.get(name, _REDUCTION)
    few, many = (max(1, -(-side // step)) for side in (has, wants))
    grid = "grid of patches" if patch else "last feature map"
    why = (
        f"the weights were trained at {wants} pixels: at {has} the {grid} is {few}x{few} instead "
        f"of {many}x{many} and objects are {wants / has:.2g} times smaller than those the filters "
        f"learnt ({wants} pixels cost {(wants / has) ** 2:.2g} times the arithmetic)"
    )
    mistake = has < FAR_BELOW * wants
    override = f"data.size={wants}"
    suffix = f"size-{wants}"
    return Finding("data.size", str(has), str(wants), why, override, suffix, mistake)


def _chain(run: Run) -> Finding | None:
    via = list(run.recipe.data.resize_via)
    if not via:
        return None
    side = run.provenance.data.side
    chain = " -> ".join(str(step) for step in (side, *via, run.recipe.data.size) if step)
    least, final = min(via), run.recipe.data.size or 0
    if least < min(side or final, final):
        why = f"resized {chain}: detail finer than {least} pixels a side is gone before the end"
    else:
        why = f"resized {chain}: each further interpolation blurs, and one would do"
    return Finding("data.resize_via", str(via), "[]", why, "data.resize_via=[]", "one-resize")


def _slow_head(run: Run, number: int, phase: PhaseSpec) -> Finding | None:
    """A head's weights start near zero: Adam must be able to carry them to where they belong."""
    if phase.train != "head" or phase.optimizer not in ("adam", "adamw"):
        return None
    train = run.provenance.data.counts.train
    if not phase.lr or not phase.epochs or not train:
        return None
    steps = phase.epochs * -(-train // run.recipe.batch_size)
    travel = phase.lr * steps
    if travel >= LEAST_TRAVEL:
        return None
    # One digit, and never beyond where Adam becomes unstable on a head.
    wanted = min(float(f"{GOOD_TRAVEL / steps:.0e}"), 1e-2)
    if wanted <= phase.lr:
        return None
    why = (
        f"a new head starts from nothing and Adam moves a weight by about its rate a step: "
        f"{phase.lr:g} over {steps:,} steps is {travel:.2g} at most, too little to leave the start"
    )
    key = f"phases.{number}.lr"
    return Finding(key, f"{phase.lr:g}", f"{wanted:g}", why, f"{key}={wanted:g}", f"lr-{wanted:g}")


def _small_batches(run: Run, number: int, phase: PhaseSpec) -> Finding | None:
    """Pretrained statistics, learnt on a million images, relearnt from a handful at a time."""
    pretrained = run.provenance.weights.provider != "random"
    moving = phase.train not in ("head", "convs") and phase.norm == "train"
    batch = run.recipe.batch_size
    if not (pretrained and moving and batch < SMALL_BATCH and _has_batch_norm(run)):
        return None
    why = (
        f"batch norm is unfrozen at {batch} images a batch: statistics learnt on a million images "
        "are replaced by the noise of a few"
    )
    key = f"phases.{number}.norm"
    return Finding(key, "train", "frozen", why, f"{key}=frozen", "frozen-norm")


def _has_batch_norm(run: Run) -> bool:
    return _NO_BATCH_NORM.match(run.recipe.backbone.name) is None
