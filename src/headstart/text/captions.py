"""Captions: class names cut to a length, so that no two of them look the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_WORDS = re.compile(r"[^\W\d_]+|\d+|\W|_")
_CUT = "…"
_BETWEEN = " _-.,"


def captions(names: Sequence[str], most: int) -> list[str]:
    """A text of at most `most` characters for each name; different names get different texts.

    Names that fit stay whole. From longer names, the part that all names begin or end with is cut
    first. Then a name keeps its beginning and the word in which it differs from its nearest
    neighbour in the alphabet. Texts that are still equal are numbered, in the given order.
    """
    start, end = _shared(names)
    differs_at = _first_differences(names)
    cut = [
        name if len(name) <= most else _cut(name, start, len(name) - end, differs_at[name], most)
        for name in names
    ]
    meant: dict[str, set[str]] = {}
    for name, caption in zip(names, cut, strict=True):
        meant.setdefault(caption, set()).add(name)
    return [
        caption if len(meant[caption]) == 1 else _numbered(caption, number, most)
        for number, caption in enumerate(cut, start=1)
    ]


def _numbered(caption: str, number: int, most: int) -> str:
    tail = f"{_CUT}#{number}"
    return caption[: most - len(tail)].rstrip(f" {_CUT}") + tail


def _shared(names: Sequence[str]) -> tuple[int, int]:
    """The lengths of the common beginning and the common end of all names, in whole words."""
    if len(set(names)) < 2:
        return 0, 0
    shortest, first = min(names, key=len), names[0]
    start = len(_common(names))
    start = max(at for at in _edges(first) if at <= start)
    end = len(_common([name[::-1] for name in names]))
    end = min(end, len(shortest) - start)
    end = max(len(first) - at for at in (*_edges(first), len(first)) if len(first) - at <= end)
    return start, end


def _common(texts: Sequence[str]) -> str:
    """The common beginning of all texts."""
    first, last = min(texts), max(texts)
    differ = (k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differ, len(first))]


def _edges(name: str) -> list[int]:
    """The starts of the words of a name: letters, digits, or a single other character."""
    return [match.start() for match in _WORDS.finditer(name)] or [0]


def _first_differences(names: Sequence[str]) -> dict[str, int]:
    """For each name, the first position at which it differs from all others."""
    at = dict.fromkeys(names, 0)
    for one, other in pairwise(sorted(at)):
        length = len(_common([one, other]))
        at[one], at[other] = max(at[one], length), max(at[other], length)
    return at


def _cut(name: str, start: int, end: int, differs_at: int, most: int) -> str:
    """The beginning of name[start:end], and the word at `differs_at` if it comes later."""
    while end - start > 1 and name[start] in _BETWEEN:
        start += 1
    rest, at = name[start:end].rstrip(_BETWEEN) or name[start:end], max(differs_at - start, 0)
    if len(rest) <= most:
        return rest
    room = most - 1
    if at < room:
        return rest[:room].rstrip(_BETWEEN) + _CUT
    word = max(edge for edge in _edges(rest) if edge <= at)
    longest = 2 * room // 3
    tail = rest[max(word, at - longest // 2) :]
    if len(tail) > longest:
        tail = tail[: longest - 1].rstrip(_BETWEEN) + _CUT
    room -= len(tail)
    whole = [edge for edge in _edges(rest) if room // 2 < edge <= room]
    return rest[: max(whole, default=room)].rstrip(_BETWEEN) + _CUT + tail
