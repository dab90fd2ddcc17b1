"""The output besides accuracy, for unequal classes and for two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headstart_predict.cards import interval, percent

if TYPE_CHECKING:
    from headstart.comparison.explain import Explanation
    from headstart.comparison.records import Comparison, Standing
    from headstart.rundir.records import SplitScores
    from headstart.rundir.run import Run

# The name of the validation column, by the metric that chooses.
_VAL = {"balanced_accuracy": "val balanced", "macro_f1": "val macro F1", "mean_ap": "val mAP",
        "loss": "val log loss"}  # fmt: skip


def scores_to_json(scores: SplitScores) -> dict[str, Any]:
    """The scores of a split for --json."""
    from headstart.files import to_json

    shown = {key: to_json(getattr(scores, key)) for key in ("accuracy", "interval", "n", "loss")}
    shown |= {
        "top5": scores.top5,
        "balanced_accuracy": scores.macro_recall,
        "balanced_interval": list(scores.balanced_interval),
        "macro_f1": scores.macro_f1,
        "majority": scores.majority,
    }
    return shown | ({"two_classes": to_json(scores.two_classes)} if scores.two_classes else {})


def class_lines(run: Run) -> list[str]:
    """A run's lines below test accuracy: for unequal classes, and for two."""
    from headstart.evaluation.classes import majority_class, scores_are_unequal

    test, names, lines = run.metrics.test, run.class_names, []
    if scores_are_unequal(test) or run.recipe.chooses_by != "accuracy":
        lines.append(
            f"balanced       {percent(test.macro_recall)} {interval(test.balanced_interval)}"
            f"  macro F1 {test.macro_f1:.3f}; always answering {names[majority_class(test)]} is "
            f"right on {percent(test.majority)}"
        )
    if two := test.two_classes:
        positive, other = names[two.positive], names[1 - two.positive]
        rates = (two.sensitivity, two.specificity)
        sensitivity, specificity = (f"{percent(f.value)} {interval(f.interval)}" for f in rates)
        lines.append(
            f"two classes    sensitivity {sensitivity} for {positive}, the positive class, "
            f"specificity {specificity} for {other}; area under ROC {two.roc_area:.3f}, under "
            f"precision-recall {two.pr_area:.3f}"
        )
    return lines


def balance_header(comparison: Comparison) -> list[str]:
    """The columns after accuracy and its interval; [] where accuracy is enough."""
    if not _shows_balance(comparison):
        return []
    if comparison.select_by == "mean_ap":
        return ["macro F1"]
    return ["balanced", "95 % interval", "macro F1"]


def balance_cells(comparison: Comparison, c: Standing) -> list[str]:
    """The cells of a configuration for `balance_header`."""
    if not _shows_balance(comparison):
        return []
    if comparison.select_by == "mean_ap":
        return [f"{c.macro_f1:.3f}"]
    value = percent(c.balanced_accuracy)
    return [value, interval(c.balanced_interval), f"{c.macro_f1:.3f}"]


def val_header(comparison: Comparison) -> str:
    return _VAL.get(comparison.select_by, "val")


def val_cell(comparison: Comparison, c: Standing) -> str:
    """The validation value of the metric that chooses."""
    value = c.val_value
    if comparison.select_by in ("accuracy", "balanced_accuracy", "mean_ap"):
        return percent(value)
    return f"{abs(value):.3f}"


def balanced_rows(explanation: Explanation) -> list[list[str]]:
    """Rows below accuracy for runs side by side; [] where no step uses another metric."""
    entries = explanation.entries
    if not any(step.beside for step in explanation.steps):
        return []
    return [
        ["balanced accuracy", *(percent(entry.balanced_accuracy) for entry in entries)],
        ["95 % interval", *(interval(entry.balanced_interval) for entry in entries)],
    ]


def _shows_balance(comparison: Comparison) -> bool:
    return (
        bool(comparison.classes and comparison.classes.unequal)
        or comparison.select_by != "accuracy"
    )
