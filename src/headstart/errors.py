"""Errors that a user can fix: each says what is wrong, where, and what would work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from headstart_predict.errors import BundleError, DataError, HeadstartError, explain_os_error

__all__ = [
    "BundleError",
    "DataError",
    "HeadstartError",
    "PrecisionError",
    "RecipeError",
    "RunError",
    "WeightsError",
    "did_you_mean",
    "explain_os_error",
]


class RecipeError(HeadstartError):
    """A recipe or study that cannot be read, or whose settings are invalid."""


class PrecisionError(HeadstartError):
    """A precision that this machine does not support."""


class WeightsError(HeadstartError):
    """Pretrained weights that cannot be found, fetched or trusted."""


class RunError(HeadstartError):
    """A run directory that cannot be used as requested."""


class BudgetError(RunError):
    """A budget that is too small for any run. enough: a time that would do, as text."""

    def __init__(self, message: str, enough: str) -> None:
        super().__init__(message)
        self.enough = enough


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """'; did you mean a, b?' for the known names nearest to `name`, or an empty string."""
    by_fold = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), by_fold, n=most, cutoff=0.6)
    return f"; did you mean {', '.join(by_fold[n] for n in near)}?" if near else ""
