"""One protocol for all runs of a comparison: what is refused, warned about and stated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart.comparison.choice import Choice, Metric
from headstart.comparison.configurations import Configuration, name_some
from headstart.comparison.records import Budget
from headstart.errors import RecipeError, RunError
from headstart.evaluation.statistics import ENOUGH
from headstart.recipe import Recipe
from headstart.rundir.run import Run

CHOSEN_ON = "on validation, or by folds of train and validation"
_SAME_TEST = ("source", "test_limit", "test_fraction", "split_seed")


def require_one_protocol(recipes: Sequence[Recipe]) -> list[str]:
    """Check a study before hours are spent on it; returns what to warn about.

    Raises RecipeError where runs would be tested on different images, or would hold out different
    shares for validation. The number of training images may be what a study is about, so a
    train_limit that differs is warned about.
    """
    for name in _SAME_TEST:
        if shown := _differing(recipes, name):
            raise RecipeError(
                f"data.{name} differs between the runs ({shown}): accuracies on different test "
                "images cannot be compared; make a study of each"
            )
    if shown := _differing(recipes, "val_fraction"):
        raise RecipeError(
            f"data.val_fraction differs between the runs ({shown}): validation would choose "
            "between them on different images; make a study of each"
        )
    if shown := _differing(recipes, "train_limit"):
        return [
            f"data.train_limit differs between the runs ({shown}): test accuracies stay "
            "comparable, but where validation is carved from train its images differ too, and "
            "the choice between such runs is not a fair one"
        ]
    return []


def require_same_test(runs: Sequence[Run]) -> None:
    """Raises RunError where two of the runs were tested on different images."""
    first = runs[0].provenance.data.test_fingerprint
    for run in runs[1:]:
        if run.provenance.data.test_fingerprint != first:
            raise RunError(
                f"{run.name} and {runs[0].name} were tested on different images: "
                "their accuracies cannot be compared"
            )


def gather_warnings(runs: Sequence[Run], labels: Sequence[str]) -> tuple[str, ...]:
    """The warnings of the runs, each once; what is said of some of them only names these."""
    warned: dict[str, list[str]] = {}
    begun = 0  # a run that failed before its images were read has nothing to say of them
    for run, label in zip(runs, labels, strict=True):
        begun += run.manifest.provenance is not None
        for line in run.warnings:
            warned.setdefault(line, []).append(label)
    return tuple(
        line if len(names) == begun else f"{line} ({name_some(names)})"
        for line, names in warned.items()
    )


def describe_protocol(
    configurations: Sequence[Configuration],
    detectable: float | None,
    metric: Metric,
    choice: Choice,
) -> dict[str, str]:
    """What was done, as title and sentence; departures from one protocol are said here."""
    runs = [run for configuration in configurations for run in configuration.runs]
    several = len(configurations) > 1
    protocol = {
        "images": _images(runs),
        "choice": f"every choice (epoch, penalty, best run) was made {CHOSEN_ON}; "
        "test was opened once a run, at its end" + _chosen_by(metric, choice),
        "budget": _budgets(configurations),
        "seeds": _seeds(configurations, metric),
    }
    if several:
        pairs = len(configurations) * (len(configurations) - 1) // 2
        corrected = f", Holm-corrected over all {pairs} pairs" if pairs > 1 else ""
        protocol["told apart"] = f"p < 0.05 on the same test images{corrected}"
        protocol["group"] = (
            f"1: the {metric.highest} on test and all not told from it; 2: the same of the rest"
        )
    if detectable is not None:
        size = metric.size(detectable)
        protocol["detectable"] = f"a difference of {size} would be shown with 80 % power"
    return protocol


def _images(runs: Sequence[Run]) -> str:
    data = [run.provenance.data for run in runs]
    counts = data[0].counts
    test = f"the same {counts.test:,} test images of {data[0].source}"
    if len({each.fingerprint for each in data}) == 1:
        own = f"{test}, {counts.train:,} training and {counts.val:,} validation images"
        return own + _refitted(runs)
    train = sorted({each.counts.train for each in data})
    val = sorted({each.counts.val for each in data})
    return (
        f"{test}; the training images differ ({_range(train)}), "
        + ("and so do the validation images" if _val_differs(runs) else "not the validation images")
        + f" ({_range(val)})"
        + _refitted(runs)
    )


def _refitted(runs: Sequence[Run]) -> str:
    """Which of the models that are tested have seen validation, too."""
    count = sum(run.history.refit is not None for run in runs)
    if not count:
        return ""
    which = "the head" if count == len(runs) else f"the head of {count} of {len(runs)} runs"
    return f"; {which} was fitted to both in the end"


def _chosen_by(metric: Metric, choice: Choice) -> str:
    """By which metric and on which images, where that is not plain."""
    said = f"; the best run by {metric.title}" if metric.name != "accuracy" else ""
    said += f" ({metric.note})" if metric.note else ""
    return said + _unfair_choice(choice)


def _unfair_choice(choice: Choice) -> str:
    if choice.shared == "whole":
        return ""
    if choice.shared == "part":
        return f"; the best run on the {choice.n:,} validation images that all runs hold"
    return (
        "; the runs chose on different validation images, so validation's choice between runs "
        "is not a fair one: go by test's groups"
    )


def _val_differs(runs: Sequence[Run]) -> bool:
    """Whether validation was about different images; told by their ids."""
    if len({run.provenance.data.fingerprint for run in runs}) == 1:
        return False
    first, *others = (run.predictions("val").ids for run in runs)
    return not all(np.array_equal(first, other) for other in others)


def _budgets(configurations: Sequence[Configuration]) -> str:
    """How many settings validation chose among, and whether that was the same for all."""
    kinds: dict[tuple[bool, int], list[Configuration]] = {}
    for configuration in configurations:
        kinds.setdefault(configuration.budget.kind, []).append(configuration)
    told = [_budget([c.budget for c in members]) for members in kinds.values()]
    if len(told) == 1:
        return f"validation chose among {told[0]}" + (" in each" if len(configurations) > 1 else "")
    parts = [
        f"{text} ({name_some([c.name for c in members])})"
        for text, members in zip(told, kinds.values(), strict=True)
    ]
    return (
        f"validation chose among {'; '.join(parts)}: not the same for all, and who has more to "
        "choose from has more chances"
    )


def _budget(budgets: Sequence[Budget]) -> str:
    tried = sorted({b.penalties for b in budgets})
    parts = [f"{_range(tried)} penalties"] if tried[-1] > 1 else []
    if epochs := budgets[0].epochs:
        parts.append(f"{epochs} epoch{'s' * (epochs > 1)}")
    return " and ".join(parts) or "nothing: one setting"


def _seeds(configurations: Sequence[Configuration], metric: Metric) -> str:
    counts = sorted({len(c.seeds) for c in configurations})
    if counts == [1]:
        test = "exact McNemar" if metric.name == "accuracy" else "permutation"
        return (
            f"one each: intervals (95 %, Wilson) and tests ({test}) cover other test "
            "images of this kind, not other seeds; they are about these trained models"
        )
    said = (
        f"{_range(counts)} each: intervals (95 %) and tests (paired t, Satterthwaite) cover "
        "other test images and other seeds"
    )
    if counts[0] == 1:
        said += "; where there is one seed, they are about that trained model"
    if sum(len(c.seeds) - 1 for c in configurations) < ENOUGH:
        said += "; so few say little about seeds, and tests allow for it"
    return said


def _differing(recipes: Sequence[Recipe], name: str) -> str:
    """The values of a data setting, as text, where they are not all the same."""
    values = {getattr(recipe.data, name) for recipe in recipes}
    return ", ".join(sorted(map(str, values))) if len(values) > 1 else ""


def _range(values: Sequence[int]) -> str:
    """Of sorted values: "9", or "9 to 11"."""
    low, high = values[0], values[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
