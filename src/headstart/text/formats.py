"""Numbers as text: a unit, few digits, and a dash for a missing number."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

MISSING = "–"
_THIN = "\u202f"  # narrow no-break space, between a number and its unit


def percent(fraction: float | None, digits: int = 1) -> str:
    return MISSING if fraction is None else f"{100 * fraction:.{digits}f}{_THIN}%"


def interval(bounds: Sequence[float] | None, digits: int = 1) -> str:
    """A 95 % interval in percent, without "%", to be shown beside a percentage."""
    if bounds is None:
        return ""
    low, high = bounds
    return f"[{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def points(fraction: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * fraction:+.1f}".replace("-", "\u2212").replace("+0.0", "0.0")


def span(fraction: float | None) -> str:
    """A size of a difference, in percentage points without a sign."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}"


def decimal(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def metric(value: float | None, unit: str = "") -> str:
    """Three digits and a prefix: 4.65 M, 387 M."""
    if value is None:
        return MISSING
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{three(value / size)}{_THIN}{prefix}{unit}"
    return f"{three(value)}{_THIN}{unit}" if unit else three(value)


def megabytes(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{three(value / 1000)}{_THIN}GB" if value >= 1000 else f"{three(value)}{_THIN}MB"


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds == 0:
        return f"0{_THIN}s"
    if seconds < 60:
        return f"{three(seconds)}{_THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_THIN}min {rest:02d}{_THIN}s"
    return f"{minutes // 60}{_THIN}h {minutes % 60:02d}{_THIN}min"


def p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def general(value: float) -> str:
    """A short text for a setting such as a rate or a penalty: four significant digits."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+").replace("-", "\u2212")


def shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def join_words(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def some(names: Collection[str], shown: int = 3) -> str:
    """A few names, sorted, and how many more there are."""
    first = sorted(names)[:shown]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(first) + more


def three(value: float) -> str:
    """Three significant digits without an exponent: 0.312, 4.65, 23.5, 138, 2,048."""
    size = abs(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:,.{digits}f}"
