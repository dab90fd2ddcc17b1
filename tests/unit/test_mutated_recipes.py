"""Whatever the text of a recipe is, it is a recipe, or one line that says why not, and soon."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.errors import RecipeError
from headstart.recipe import load_recipe, load_recipes, shipped_recipes

LONGEST_S = 30.0  # of CPU: more is a hang (usual: 0.2); a busy or slow machine is none
MOST_LETTERS = 600

EXTREMES = (
    *("-1", "0", str(2**70), str(10**30), "-9223372036854775808", "1e308", "-1e308", "5e-324"),
    *("inf", "nan", "1" * 5000, "0x" + "f" * 5000, "true", '""', '"\\u0000\\u202e"', "[]", "{}"),
    *("'" + " " * 4000 + "'", '"' + "a" * 9000 + '"', "[" * 2000, "[" * 60 + "]" * 60),
    *("1979-05-27", "[1, [2]]", "{ a = { b = 1 } }", "'~nouser/x'"),
)
LINES = (
    *("[data]", "[[phases]]", "[phases]", "[grid]", "[[variants]]", "[" + " " * 4000, "=", "[a]]"),
    *("a" * 9000 + " = 1", ".".join("a" * 900) + " = 1", f"[{'.'.join('a' * 900)}]", "\x00", "🙂"),
)


def other_number(text: str, draw: random.Random) -> str:
    numbers = list(re.finditer(r"= *([^\n]+)", text))
    if not numbers:
        return text
    at = draw.choice(numbers)
    return text[: at.start(1)] + draw.choice(EXTREMES) + text[at.end(1) :]


def other_line(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(draw.randrange(len(lines) + 1), draw.choice((*LINES, draw.choice(lines))))
    return "\n".join(lines)


def fewer_lines(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    del lines[draw.randrange(len(lines))]
    return "\n".join(lines)


def other_letters(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text))
    return text[:at] + draw.choice("\"'[]{}=.,#\n -0aé\t\x7f") + text[at + draw.randrange(3) :]


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    other_number,
    other_line,
    fewer_lines,
    other_letters,
)


def test_mutated_recipes_load_or_say_why_in_one_line(tmp_path: Path) -> None:
    draw = random.Random(20_251)
    shipped = [text for _, text in sorted(shipped_recipes().items())]
    path = tmp_path / "mutated.toml"
    loaded = 0
    for number in range(500):
        text = shipped[number % len(shipped)]
        for _ in range(draw.randint(1, 3)):
            text = draw.choice(MUTATIONS)(text, draw)
        path.write_text(text, encoding="utf-8")
        for load in (load_recipe, load_recipes):
            began = time.process_time()
            try:
                load(path)
                loaded += 1
            except RecipeError as error:
                line = str(error)
                assert line.isprintable(), text
                assert len(line) < MOST_LETTERS, line
            assert time.process_time() - began < LONGEST_S, text
    assert 100 < loaded < 900  # both outcomes are met


@pytest.mark.parametrize(
    "override",
    [
        *("data.split_seed=1000000000000000000000000000000", "seed=99999999999999999999"),
        *("phases.0.lr=1e308", "phases.0.lr=inf", "phases.0.lr=nan", "phases.0.weight_decay=1e300"),
        *("phases.0.epochs=1180591620717411303424", "phases.0.epochs=9000000000"),
        *("phases.0.patience=9000000000", "phases.0.views=9999999", "phases.0.grad_clip=inf"),
        *("batch_size=4000000000", "data.size=4000000000", "data.train_limit=9000000000000"),
        *("data.test_limit=99999999999999", "evaluation.corrupted_images=999999999999"),
        *("head.hidden=[70000]", "data.augment.rotate=1e9", "head.l2=inf"),
        f"head.hidden={[8] * 40}",
        f"phases.0.train=last_layers:{'9' * 40}",
    ],
)
def test_a_number_beyond_reason_is_refused_by_its_field(override: str) -> None:
    field = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(RecipeError, match=field) as refused:
        load_recipe("cifar10-finetune", [override])
    assert len(str(refused.value)) < MOST_LETTERS


def test_many_spaces_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "spaces.toml"
    name = "'''\n[" + " " * 200_000 + "'''"
    path.write_text(f'name = {name}\n[data]\nsource = "cifar10-mini"\n')
    began = time.process_time()
    with pytest.raises(RecipeError, match="line 1"):
        load_recipe(path)
    assert time.process_time() - began < LONGEST_S


def test_a_grid_that_nobody_would_wait_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    axes = "\n".join(
        f'"{key}" = {list(range(1, 41))}'
        for key in ("seed", "batch_size", "phases.0.epochs", "data.train_limit", "data.split_seed")
    )
    text = next(t for t in shipped_recipes().values() if "[grid]" in t)
    path.write_text(f"{text[: text.index('[grid]')]}\n[grid]\n{axes}\n")
    with pytest.raises(RecipeError, match="runs: at most 1,000"):
        load_recipes(path)
