"""What `check` prints: what a recipe would do, and a study's runs in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.shown import grid
from headstart.tables import description, warning_lines

if TYPE_CHECKING:
    from headstart.training.outline import PhaseOutline
    from headstart.workbench import Preview


def study(previews: Sequence[Preview]) -> str:
    """The data in a line, a line a run with its phases folded, the sum, and the warnings."""
    from headstart.comparison.estimating import total
    from headstart.comparison.selection import format_seconds

    data: dict[str, None] = {}
    for each in previews:
        counts = ", ".join(f"{split} {sum(n):,}" for split, n in each.data.counts.items())
        told = f"{each.data.source}: {len(each.data.class_names)} classes; images: {counts}"
        bad = len(each.data.quarantined)
        data[told + (f"; {bad:,} left out" if bad else "")] = None
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
        f"{whole.cache_bytes / 1e6:.0f} MB of cache: an estimate, from the speed of each backbone "
        "just now; what is finished or cached already takes less. --details: phases and recipes.",
    ]
    return "\n\n".join([*parts, *_warnings(previews)])


def _folded(phase: PhaseOutline) -> str:
    how = "solved" if phase.epochs is None else f"{phase.epochs} epochs"
    return f"{phase.train} {how}"


def _warnings(previews: Sequence[Preview]) -> list[str]:
    """One paragraph of what the runs would warn of, each line once; none where there is nothing."""
    warnings = dict.fromkeys(line for each in previews for line in each.data.warnings)
    return ["\n".join(warning_lines([*warnings]))] if warnings else []


def previews(previews: Sequence[Preview]) -> str:
    """What `headstart check` prints of a recipe, and with --details of each of a study's: the data,
    the phases, the estimate and the resolved recipe; then the warnings, each line once."""
    parts = []
    for preview in previews:
        parts += [description(preview.data), *map(_phase, preview.phases)]
        parts.append(f"takes {preview.estimate}")
        parts.append(preview.recipe.to_toml().rstrip())
    return "\n\n".join([*parts, *_warnings(previews)])


def _phase(phase: PhaseOutline) -> str:
    how = phase.optimizer if phase.epochs is None else f"{phase.optimizer}, {phase.epochs} epochs"
    rate = "" if phase.lr is None else f", lr {phase.lr:g}"
    trained = f"{phase.trainable_head:,} parameters of the head"
    if phase.first:
        norms = f"{phase.moving_norms} moving" if phase.moving_norms else "all frozen"
        trained += (
            f" and {phase.trainable_backbone:,} of the backbone, {phase.first} to {phase.last} "
            f"({phase.stages} stages; batch norms: {norms})"
        )
    lines = [
        f"phase {phase.phase}: {phase.train} ({how}{rate})",
        f"  trains    {trained}",
        f"  frozen    {phase.frozen:,} parameters; the boundary lies at {phase.boundary}",
    ]
    if phase.recomputed is None:
        lines.append(f"  caches    {phase.cache}")
    else:
        lines.append(f"  caches    nothing: {phase.recomputed}")
    return "\n".join(lines)
