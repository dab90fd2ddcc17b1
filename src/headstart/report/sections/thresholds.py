"""Two classes: what other thresholds than 0.5 would give, chosen on validation or by costs."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.evaluation.operating import (
    BALANCED,
    EVEN,
    F1,
    RECALL,
    Cut,
    choose_thresholds,
    cost_threshold,
    measure_cut,
)
from headstart.rundir.run import Run

# Costs of a missed positive image, in false alarms.
RATIOS = (0.2, 2.0, 5.0, 10.0, 20.0)
_WHY = {
    EVEN: "as answered: both errors count alike",
    BALANCED: "the highest mean of sensitivity and specificity",
    F1: "the highest F1",
    RECALL: "finds 95 % of the positive images",
}


@dataclass(frozen=True, slots=True)
class CutRow:
    """name: what --threshold takes for it, if it has one. why: what it is the best for."""

    name: str
    why: str
    cut: Cut


def describe_thresholds(run: Run, positive: int) -> list[CutRow]:
    """Thresholds on the calibrated probability of the positive class, on the test images."""
    val, test = (
        run.predictions(split).tempered(run.metrics.temperature) for split in ("val", "test")
    )
    probabilities, truth = test.probabilities[:, positive], test.labels == positive
    chosen = choose_thresholds(val.probabilities[:, positive], val.labels == positive)
    rows = [
        CutRow(name, _WHY[name], measure_cut(threshold, probabilities, truth))
        for name, threshold in chosen.items()
    ]
    for ratio in RATIOS:
        cut = measure_cut(cost_threshold(ratio), probabilities, truth)
        why = f"a missed image costs {ratio:g} times a false alarm"
        rows.append(CutRow(f"{cut.threshold:.3g}", why, cut))
    return rows
