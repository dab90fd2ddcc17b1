"""The text of a recipe: found, parsed, overridden, and the line on which a key stands.

Whatever the text is, the outcome is its tables or a RecipeError of one line, and soon.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from headstart.errors import RecipeError, did_you_mean
from headstart_predict.plain import one_line, shorten_middle

DEEPEST = 32  # tables and lists inside each other
_SAID = 120  # characters of a name or value in an error


def shipped_recipes() -> dict[str, str]:
    """The recipes and studies that come with the package: name to TOML text."""
    folder = resources.files("headstart") / "recipes"
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".toml")
    }


def read_toml(source: str | Path) -> tuple[str, str, dict[str, Any]]:
    """Where the text of a recipe or study is from, the text, and its tables. Raises RecipeError."""
    path = Path(source)
    try:
        if (path / "recipe.toml").is_file():  # a run's directory
            path = path / "recipe.toml"
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would wait for ever
            raise RecipeError(f"{brief(str(path))}: not a regular file")
        if path.suffix == ".toml" or path.is_file():
            where, text = str(path), path.read_text(encoding="utf-8")
        else:
            where, text = f"{source}.toml", _shipped(str(source))
    except (OSError, ValueError) as error:  # also a name that is no UTF-8, or too long for one
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RecipeError(
            f"{shorten_middle(one_line(str(path)), 300)}: cannot be read: {reason}"
        ) from error
    try:
        return where, text, tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else brief(str(error))
        raise RecipeError(f"{where}: not valid TOML: {reason}") from error


def _shipped(name: str) -> str:
    """The text of a shipped recipe. Raises RecipeError where there is none of this name."""
    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(
            f"no recipe {brief(name)!r}: not a file, and not shipped"
            f"{did_you_mean(name, shipped)} (list them: headstart recipes)"
        )
    return shipped[name]


def brief(text: str) -> str:
    """A name or value of any length, for an error's one line."""
    return shorten_middle(one_line(text), _SAID)


def refuse_extremes(raw: Mapping[str, Any], where: str) -> None:
    """Raises RecipeError for tables that are too deep, and for whole numbers of over 64 bits,
    which TOML does not have and which take long to print."""
    left: list[tuple[str, int, Any]] = [("", 0, raw)]
    while left:
        key, depth, value = left.pop()
        if depth > DEEPEST:
            raise RecipeError(f"{where}: {brief(key)}: nested too deeply")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RecipeError(f"{where}: {brief(key)}: a number of more than 64 bits")
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{key}.{part}".lstrip("."), depth + 1, item) for part, item in items]


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set what `key=value` overrides say. Raises RecipeError."""
    for override in overrides:
        key, equals, value = override.partition("=")
        where = f"--set {brief(override)}"
        if not equals or not key:
            raise RecipeError(f"{where}: write key=value, such as phases.1.lr=3e-5")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value  # a word without quotes is a string: --set data.source=cifar10
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{where}: too long a number, or nested too deeply") from error
        set_key(raw, key.strip(), parsed, where=where)


def set_key(raw: dict[str, Any], dotted: str, value: Any, *, where: str = "") -> None:
    """Set `a.1.b` inside nested tables and arrays; missing tables are created."""
    node: Any = raw
    *parents, last = dotted.split(".", DEEPEST)
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        name = brief(dotted)
        raise RecipeError(f"{where or name}: there is no {name} in this recipe") from error


def line_of(text: str, location: tuple[int | str, ...]) -> int | None:
    """The line on which the key at `location` stands, or its nearest parent's."""
    lines: dict[tuple[int | str, ...], int] = {}
    table: tuple[int | str, ...] = ()
    arrays: dict[tuple[int | str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        # Without a pattern for the whole line: it would try every way to share out its spaces.
        begun = line.strip()
        if begun.startswith("[") and "]" in begun:
            name = begun.lstrip("[").partition("]")[0]
            table = tuple(part.strip().strip("\"'") for part in name.split("."))
            if begun.startswith("[["):
                arrays[table] = arrays.get(table, -1) + 1
                table = (*table, arrays[table])
            lines[table] = number
        elif key := re.match(r"""([\w.-]+|"[^"]+"|'[^']+')\s*=""", begun):
            dotted = tuple(part.strip("\"'") for part in key[1].split("."))
            lines[(*table, *dotted)] = number
    for depth in range(len(location), 0, -1):
        if location[:depth] in lines:
            return lines[location[:depth]]
    return None
