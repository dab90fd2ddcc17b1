"""What Python asks of a data set before anything is trained: counts, duplicates, pictures."""

from __future__ import annotations

from pathlib import Path

from headstart.data import Description, load_data, sample_grid
from headstart.data import describe as describe_data
from headstart.data.check.duplicates import Leakage, find_leakage, pair_grid
from headstart.machine.progress import Reporter, TerminalReporter
from headstart.specs import DataSpec

# Pixels a side that photos are read at: twice what the search compares, for pictures of pairs.
SEARCHED_SIDE = 64
SAMPLED_SIDE = 128


def describe(source: str | DataSpec, *, reporter: Reporter | None = None) -> Description:
    """Count a data set's images by class and split, and list what is wrong with it.

    source: a name, "folder:PATH", or a recipe's `data`, whose splits are then described. Raises
    DataError where it cannot be read.
    """
    reporter = reporter or TerminalReporter()
    return describe_data(_spec(source), progress=reporter.transfer)


def duplicates(
    source: str | DataSpec, *, out: str | Path | None = None, reporter: Reporter | None = None
) -> Leakage:
    """The images that have a duplicate in another split, or in their own.

    For CIFAR from the shipped list, for folders by a search: the same picture again, and one that
    is mirrored, moved, enlarged, brighter or tinted. source: as for `describe`. Example pairs are
    drawn to a PNG at `out`, where there are any. Raises DataError where it cannot be read.
    """
    reporter = reporter or TerminalReporter()
    spec = _spec(source).model_copy(update={"size": SEARCHED_SIDE})
    splits = load_data(spec, progress=reporter.transfer)
    leakage = find_leakage(splits)
    if out is not None:
        if leakage.found:
            reporter.say(str(pair_grid(leakage, splits, Path(out))))
        else:
            reporter.warn(f"{out}: not written: there is no pair to draw")
    return leakage


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
    reporter = reporter or TerminalReporter()
    spec = _spec(source).model_copy(update={"size": SAMPLED_SIDE})
    splits = load_data(spec, progress=reporter.transfer)
    return sample_grid(splits.train, splits.class_names, Path(out), seed=seed)


def _spec(source: str | DataSpec) -> DataSpec:
    return source if isinstance(source, DataSpec) else DataSpec(source=source)
