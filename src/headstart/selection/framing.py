"""How photos that are not square become squares, chosen by held-out answers: crop, pad or squash.

Where the centre square cuts off much, that may be what matters, or nothing but background: only the
labels tell. So a linear head is probed on frozen features of each framing, on the same training
images, by folds. Validation and test are not used. The passes are those of the selection under a
budget: the boundary cache has the features, and the results are remembered.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headstart.comparison.framing import FramingChoice
from headstart.recipe import Recipe
from headstart.selection.evidence import EvidenceSource
from headstart.selection.halving import LEVEL, chance
from headstart_predict.framing import CROP, FRAMINGS, PAD, SQUASH, Framing

# The median share of a photo outside its centre square from which the three are tried; of photos of
# 4:3 it is a quarter.
CUT = 0.1


def choose_framing(
    source: EvidenceSource, probe: Recipe, cut: float, most: int
) -> FramingChoice | None:
    """The framing to take; None where there is no time for three passes.

    source: of this recipe's images. probe: a solved head on frozen features. cut: as in
    FramingChoice. most: images that the three passes may take together.
    """
    candidates = {}
    for framing in FRAMINGS:
        data = probe.data.model_copy(update={"framing": framing})
        named = {"name": f"{probe.backbone.name}-{framing}", "data": data}
        candidates[framing] = source.prepare(probe.model_copy(update=named))
    fit = [level for level in source.levels() if len(FRAMINGS) * source.images(level) <= most]
    if not fit:
        return None
    found = {name: source(candidate, fit[-1]) for name, candidate in candidates.items()}
    balanced = probe.chooses_by in ("balanced_accuracy", "macro_f1")
    values = {name: evidence.values(balanced) for name, evidence in found.items()}
    chosen, p_value = decide(values)
    return FramingChoice(
        chosen=chosen,
        cut=cut,
        backbone=probe.backbone.name,
        images=found[CROP].images,
        metric=f"balanced {probe.headline}" if balanced else probe.headline,
        scores={name: float(each.mean()) for name, each in values.items()},
        p_value=p_value,
        seconds=sum(evidence.seconds for evidence in found.values()),
    )


def decide(values: Mapping[Framing, np.ndarray]) -> tuple[Framing, float]:
    """The framing to take, and the p-value of the better of pad and squash against crop.

    values: on the same images, bool hits, or float if weighted by class. Crop stays unless another
    one is significantly better; the level is halved, because there are two of them. Of two equal
    ones it is pad, which keeps shapes.
    """
    best = SQUASH if values[SQUASH].mean() > values[PAD].mean() else PAD
    p_value = chance(values[best], values[CROP])
    return (best if p_value < LEVEL / 2 else CROP), p_value
