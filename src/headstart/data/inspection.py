"""The Python functions that inspect a data set before training: counts, duplicates, pictures."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from headstart.data import Description, load_data, sample_grid
from headstart.data import describe as describe_data
from headstart.data.check.duplicates import Duplicates, find_duplicates, pair_grid
from headstart.errors import RecipeError
from headstart.machine.notebook import default_reporter
from headstart.machine.progress import Reporter
from headstart.specs import DataSpec

# Pixels a side at which photos are read: twice the side that the search compares, so that drawn
# pairs are clear.
SEARCHED_SIDE = 64
SAMPLED_SIDE = 128


def describe(source: str | DataSpec, *, reporter: Reporter | None = None) -> Description:
    """Count a data set's images by class and split, and list its faults.

    source: a name, "folder:PATH", "manifest:PATH", or a recipe's `data`, whose splits are then
    described. Raises DataError where it cannot be read.
    """
    reporter = reporter or default_reporter()
    return describe_data(_spec(source), progress=reporter.transfer)


def duplicates(
    source: str | DataSpec, *, out: str | Path | None = None, reporter: Reporter | None = None
) -> Duplicates:
    """The images that have a duplicate in another split, or in their own.

    CIFAR has a shipped list; folders are searched. A duplicate is the same picture, also mirrored,
    moved, enlarged, brighter or tinted. source: as for `describe`. out: a PNG of example pairs,
    written if there are any. Raises DataError where the source cannot be read.
    """
    reporter = reporter or default_reporter()
    spec = _spec(source).model_copy(update={"size": SEARCHED_SIDE})
    splits = load_data(spec, progress=reporter.transfer)
    result = find_duplicates(splits)
    if out is not None:
        if result.count:
            reporter.say(str(pair_grid(result, splits, Path(out))))
        else:
            reporter.warn(f"{out}: not written: there is no pair to draw")
    return result


def draw_samples(
    source: str | DataSpec,
    out: str | Path = "samples.png",
    *,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Path:
    """Draw a labelled grid of random training images to a PNG at `out`, and return its path.

    source: as for `describe`; seed: which images. Raises DataError where it cannot be read.
    """
    reporter = reporter or default_reporter()
    spec = _spec(source).model_copy(update={"size": SAMPLED_SIDE})
    splits = load_data(spec, progress=reporter.transfer)
    return sample_grid(splits.train, splits.class_names, Path(out), seed=seed)


def data_table(
    source: str, label_from: str | None, labels: str = "one", group: str | None = None
) -> dict[str, str]:
    """The [data] table of a recipe with these fields, without those that are left at their
    defaults. Raises RecipeError, which names the option, where an expression is none."""
    several = None if labels == "one" else labels
    given = {"source": source, "label_from": label_from, "labels": several, "group": group}
    data = {key: value for key, value in given.items() if value is not None}
    try:
        DataSpec.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise RecipeError(f"--{str(first['loc'][0]).replace('_', '-')}: {reason}") from None
    return data


def _spec(source: str | DataSpec) -> DataSpec:
    return source if isinstance(source, DataSpec) else DataSpec(source=source)
