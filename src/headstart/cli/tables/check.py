"""The output of `check`: what a recipe would do, or one line for each run of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.cli.tables.common import warning_lines
from headstart.cli.tables.data import format_description
from headstart_predict.cards import grid

if TYPE_CHECKING:
    from headstart.plan.plan import PhasePlan
    from headstart.selection.preview import Preview


def format_study(previews: Sequence[Preview]) -> str:
    """One line about the data, one line for each run, the sum, and the warnings."""
    from headstart.selection.estimating import total
    from headstart.text.durations import format_seconds

    data: dict[str, None] = {}
    for each in previews:
        counts = ", ".join(f"{split} {n:,}" for split, n in each.data.images.items())
        line = f"{each.data.source}: {len(each.data.class_names)} classes; images: {counts}"
        bad = len(each.data.quarantined)
        data[line + (f"; {bad:,} left out" if bad else "")] = None
    rows = [
        [
            each.recipe.name,
            each.recipe.backbone.name,
            str(each.recipe.data.size),
            ", then ".join(map(_folded, each.phases)),
            format_seconds(each.estimate.seconds),
            f"{each.estimate.run_bytes / 1e6:.0f}",
            f"{each.estimate.cache_bytes / 1e6:.0f}",
        ]
        for each in previews
    ]
    header = ["run", "backbone", "pixels", "phases", "time", "run MB", "cache MB"]
    whole = total([each.estimate for each in previews])
    parts = [
        "\n".join(data),
        grid(header, rows, "llrlrrr"),
        f"in all about {format_seconds(whole.seconds)}, {whole.run_bytes / 1e6:.0f} MB of runs and "
        f"{whole.cache_bytes / 1e6:.0f} MB of cache: an estimate, from the measured speed of each "
        "backbone; finished runs and cached features take less. --details: phases and recipes.",
    ]
    return "\n\n".join([*parts, *_warnings(previews)])


def _folded(phase: PhasePlan) -> str:
    how = "solved" if phase.solved else f"{phase.epochs} epochs"
    return f"{phase.spec.train} {how}"


def _warnings(previews: Sequence[Preview]) -> list[str]:
    """One paragraph with the warnings of the runs, each line once; [] if there are none."""
    warnings = dict.fromkeys(line for each in previews for line in each.data.warnings)
    return ["\n".join(warning_lines([*warnings]))] if warnings else []


def format_previews(previews: Sequence[Preview]) -> str:
    """The output of `headstart check` for a recipe, or with --details for each recipe of a study:
    data, phases, estimate and resolved recipe; then the warnings, each line once."""
    parts = []
    for preview in previews:
        parts += [format_description(preview.data), *map(_phase, preview.phases)]
        parts.append(f"takes {preview.estimate}")
        parts.append(preview.recipe.to_toml().rstrip())
    return "\n\n".join([*parts, *_warnings(previews)])


def _phase(phase: PhasePlan) -> str:
    spec = phase.spec
    how = "lbfgs" if phase.solved else f"{spec.optimizer}, {phase.epochs} epochs, lr {phase.lr:g}"
    trained = f"{phase.head:,} parameters of the head"
    if phase.holding:
        norms = f"{len(phase.freeze.moving)} moving" if phase.freeze.moving else "all frozen"
        trained += (
            f" and {phase.trainable:,} of the backbone, {phase.holding[0]} to {phase.holding[-1]} "
            f"({len(phase.holding)} of {len(phase.stages)} stages; batch norms: {norms})"
        )
    return "\n".join(
        [
            f"phase {phase.number + 1}: {spec.train} ({how})",
            f"  trains    {trained}",
            f"  frozen    {phase.frozen:,} parameters; the boundary lies at "
            f"{phase.freeze.boundary_name}",
            f"  caches    {phase.cache or f'nothing: {phase.recomputed}'}",
        ]
    )
