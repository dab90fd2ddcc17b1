"""Durations as people type them: 90s, 10m, 1h30m."""

from __future__ import annotations

import re

from headstart.errors import HeadstartError


def parse_seconds(text: str) -> float:
    """Seconds of "90s", "10m", "1h" or "1h30m". Raises HeadstartError for anything else."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise HeadstartError(f"--budget {text}: write a time such as 90s, 10m or 1h30m")
    return seconds


def format_seconds(seconds: float) -> str:
    """As `parse_seconds` reads it, whole seconds: 90s, 10m, 1h5m."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole}s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in parts if amount)
