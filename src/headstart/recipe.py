"""Recipes and studies: load, override, validate, dump, fingerprint.

A recipe describes an experiment and says nothing about the machine. Its tables are declared in
`specs.py`. An unknown key or a wrong type raises an error that names the line.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, Strict, ValidationError

from headstart.errors import RecipeError, did_you_mean
from headstart.recipe_text import (
    apply_overrides,
    brief,
    line_of,
    read_toml,
    refuse_extremes,
    set_key,
)
from headstart.recipe_text import shipped_recipes as shipped_recipes
from headstart.specs import (
    LONGEST_LIST,
    AugmentSpec,
    BackboneSpec,
    DataSpec,
    EvaluationSpec,
    HeadSpec,
    PhaseSpec,
    Seed,
    Spec,
)
from headstart_predict.cards import Card, Shown

MOST_RUNS = 1_000  # of a study
SelectBy = Literal["auto", "accuracy", "balanced_accuracy", "macro_f1", "mean_ap", "loss"]


class Recipe(Shown, Spec):
    """One run, stated completely. Equal recipes give equal runs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)] = Field(
        description="letters, digits, '.', '_' and '-'"
    )
    seed: Seed = Field(0, description="seed of initialisation, order and augmentation")
    batch_size: Annotated[int, Field(gt=0, le=1_000_000)] = Field(
        128, description="images in a batch, over all devices together"
    )
    balance: Literal["none", "auto"] = Field(
        "none", description="auto weighs the loss of each class by the inverse of its frequency"
    )
    select_by: SelectBy = Field(
        "auto",
        description="metric on validation that chooses the epoch, the phase and, in a comparison, "
        'the run; auto is balanced_accuracy with balance = "auto", else accuracy, and, with '
        'data.labels = "many", mean_ap, the mean average precision of the labels; the lower loss '
        "breaks a tie",
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="precision of forward passes; auto is bfloat16 on CUDA and float32 elsewhere; "
        "bfloat16 needs a CPU that supports it; int8, calibrated, is for frozen passes on a CPU",
    )
    data: DataSpec
    backbone: BackboneSpec
    head: HeadSpec = HeadSpec()
    phases: Annotated[
        tuple[PhaseSpec, ...], Strict(False), Field(min_length=1, max_length=LONGEST_LIST)
    ]
    evaluation: EvaluationSpec = EvaluationSpec()

    @property
    def chooses_by(self) -> str:
        """select_by, with auto resolved."""
        return self._auto_choice if self.select_by == "auto" else self.select_by

    @property
    def _auto_choice(self) -> str:
        if self.many_labels:
            return "mean_ap"
        return "accuracy" if self.balance == "none" else "balanced_accuracy"

    @property
    def many_labels(self) -> bool:
        """Whether an image may have several labels."""
        return self.data.labels == "many"

    @property
    def headline(self) -> str:
        """The score that is said first."""
        return "mAP" if self.many_labels else "accuracy"

    def _card(self) -> Card:
        size = f"{self.data.size} pixels" if self.data.size else "the size its weights want"
        phases = ", then ".join(phase.train for phase in self.phases)
        facts = [
            ("data", self.data.source),
            ("backbone", f"{self.backbone.name}, {size}"),
            ("trains", phases),
        ]
        return Card(f"Recipe {self.name}", facts)

    def fingerprint(self, *, images: str, weights: str, precision: str) -> str:
        """Eight hex digits of everything that decides the trained weights of a resolved recipe.

        images: the splits' fingerprint. weights: the SHA-256 of their file, or "random". Names,
        paths and the evaluation table do not count. Fields at their default do not count either,
        so a new field changes no fingerprint of a recipe without it.
        """
        apart: Any = {
            **dict.fromkeys(("name", "evaluation", "precision"), True),
            "backbone": {"weights"},
            "data": {"source"},
        }
        settings = self.model_dump(mode="json", exclude_defaults=True, exclude=apart)
        return _digest([settings, images, weights, precision])

    def to_toml(self) -> str:
        """The recipe as TOML that loads back to an equal recipe (None is left out).

        So is data.labels where it is "one": versions that know no other read the recipe, too.
        """
        tables = self.model_dump(mode="json", exclude_none=True)
        if not self.many_labels:
            del tables["data"]["labels"]
        return tomli_w.dumps(tables)


class Study(Shown, Spec):
    """A grid of runs that are compared under one protocol.

    recipe: the shared part. grid: dotted keys and the values to combine. variants: further runs,
    each a table of dotted keys. A variant replaces the grid keys that it sets and is combined with
    the values of the others, such as a from-scratch network with the same seeds as the frozen ones.
    """

    name: str
    recipe: dict[str, Any]
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    variants: tuple[dict[str, Any], ...] = ()

    def _card(self) -> Card:
        recipes = self.recipes()
        rows = [[r.name, r.backbone.name, r.data.source, str(r.seed)] for r in recipes]
        header = ("run", "backbone", "data", "seed")
        return Card(f"Study {self.name}: {len(recipes)} runs", (), header, rows)

    def recipes(self) -> list[Recipe]:
        """Every run of the study as a validated recipe, in grid order, each with its own name."""
        self._refuse_too_many()
        points: list[tuple[dict[str, Any], Mapping[str, Any]]] = []
        if self.grid:
            points += [(point, {}) for point in _cross(self.grid)]
        for variant in self.variants:
            own = {key: value for key, value in variant.items() if key != "name"}
            free = {key: values for key, values in self.grid.items() if key not in own}
            label = {"name": variant["name"]} if "name" in variant else {}
            points += [({**point, **own, **label}, own) for point in _cross(free)]
        recipes = [self._recipe(point, own) for point, own in points]
        names = [recipe.name for recipe in recipes]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(
                    f"study {self.name}: two runs are called {name}: "
                    "give each variant a name of its own"
                )
        return recipes

    def _refuse_too_many(self) -> None:
        """Raises RecipeError, before any run is made, for a grid that nobody would wait for."""
        grids = [self.grid] if self.grid else []
        grids += [{k: v for k, v in self.grid.items() if k not in own} for own in self.variants]
        count = sum(math.prod(map(len, grid.values())) for grid in grids)
        if count > MOST_RUNS:
            raise RecipeError(f"study {self.name}: {count:,} runs: at most {MOST_RUNS:,}")

    def _recipe(self, point: Mapping[str, Any], own: Mapping[str, Any]) -> Recipe:
        """The run at one point of the grid. own: the keys that its variant sets; the variant's
        name stands for them in the name of the run."""
        raw = copy.deepcopy(self.recipe)
        settings = {key: value for key, value in point.items() if key != "name"}
        for key, value in settings.items():
            set_key(raw, key, value)
        axes = [key for key in self.grid if key in settings]
        parts = [str(settings[key]) for key in axes]
        if "name" in point:
            free = [key for key in axes if key not in own and len(self.grid[key]) > 1]
            parts = [point["name"], *(str(settings[key]) for key in free)]
        raw["name"] = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-") or self.name
        return _validate(Recipe, raw, where=f"study {self.name}, run {raw['name']}")

    def fingerprint(self, images: Mapping[str, str]) -> str:
        """Eight hex digits of the study's recipes. images: by source, the fingerprint that stands
        for it, so that a moved folder gives the same study."""
        dumps = []
        for recipe in self.recipes():
            dumps.append(settings := recipe.model_dump(mode="json", exclude_defaults=True))
            source = recipe.data.source
            settings["data"]["source"] = images.get(source, source)
        return _digest(dumps)


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or a shipped one by name, and apply `key=value` overrides.

    Raises RecipeError with the file, the line and the nearest known key.
    """
    where, text, raw = read_toml(source)
    if "grid" in raw or "variants" in raw:
        raise RecipeError(f"{where}: this is a study; run it with: headstart compare {source}")
    apply_overrides(raw, overrides)
    refuse_extremes(raw, where)
    return _validate(Recipe, raw, where=where, text=text, overrides=overrides)


def load_study(source: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study (a recipe with [grid] or [[variants]]); overrides apply to its recipe."""
    where, text, raw = read_toml(source)
    apply_overrides(raw, overrides)
    refuse_extremes(raw, where)
    grid = raw.pop("grid", {})
    variants = raw.pop("variants", [])
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise RecipeError(f'{where}: [grid] takes lists, such as "backbone.name" = ["resnet50"]')
    if not isinstance(variants, list) or not all(
        isinstance(v, dict) and isinstance(v.get("name", ""), str) for v in variants
    ):
        raise RecipeError(f"{where}: [[variants]] takes tables of dotted keys; a name is text")
    if not grid and not variants:
        raise RecipeError(
            f"{where}: a study needs a [grid] or [[variants]]; see: headstart recipes"
        )
    _refuse_lost_overrides(overrides, grid, variants)
    name = raw.get("name")
    if not isinstance(name, str):
        raise RecipeError(f'{where}: name is missing: add name = "my-study" at the top')
    study = Study(name=name, recipe=raw, grid=grid, variants=tuple(variants))
    # The shared part is checked together with the text first, so that its errors name a line.
    first = {key: values[0] for key, values in grid.items()} or {
        key: value for key, value in variants[0].items() if key != "name"
    }
    trial = copy.deepcopy(raw)
    for key, value in first.items():
        set_key(trial, key, value, where=where)
    _validate(Recipe, trial, where=where, text=text, overrides=overrides)
    study.recipes()
    return study


def _refuse_lost_overrides(
    overrides: Sequence[str], grid: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]
) -> None:
    """Raises RecipeError for an override that the grid or a variant would replace."""
    own = dict.fromkeys(grid, "[grid]")
    for variant in variants:
        for key in variant:
            own.setdefault(key, f"variant {variant.get('name', '')}".strip())
    own.pop("name", None)
    for override in overrides:
        key = override.partition("=")[0].strip()
        for taken, by in own.items():
            if f"{key}.".startswith(f"{taken}.") or f"{taken}.".startswith(f"{key}."):
                raise RecipeError(
                    f"--set {override}: the study's {by} sets {taken} itself: copy the study "
                    "and edit it (headstart recipes copy)"
                )


def load_recipes(source: str | Path, overrides: Sequence[str] = ()) -> list[Recipe]:
    """The recipe, or all recipes of the study, that `source` names."""
    _, _, raw = read_toml(source)
    if "grid" in raw or "variants" in raw:
        return load_study(source, overrides).recipes()
    return [load_recipe(source, overrides)]


def _cross(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if not grid:
        return [{}]
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def _validate(
    kind: type[Recipe],
    raw: dict[str, Any],
    *,
    where: str,
    text: str | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        # A missing key may be misspelt: the error about the unknown key says more.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] == "missing")
        location = tuple(first["loc"])
        line = line_of(text, location) if text else None
        place = f"{where}, line {line}" if line else where
        dotted = ".".join(str(part) for part in location)
        for override in overrides:
            if f"{dotted}.".startswith(f"{override.partition('=')[0].strip()}."):
                place = f"--set {brief(override)}"  # it has replaced the line of the file
        raise RecipeError(f"{place}: {_describe(first, location)}") from None


def _describe(error: Any, location: tuple[int | str, ...]) -> str:
    dotted = brief(".".join(str(part) for part in location))
    if error["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f"unknown key {dotted}{did_you_mean(str(location[-1]), known)}" + (
            "" if did_you_mean(str(location[-1]), known) else f"; known here: {', '.join(known)}"
        )
    if error["type"] == "missing":
        return f"{dotted} is missing"
    message = re.sub(r"^(Input|Value error,) ?", "", error["msg"]).strip()
    given = error["input"]
    if dotted == "phases" and isinstance(given, dict):
        return "phases is a list of tables: write [[phases]], not [phases]"
    message = message.replace("a valid tuple", "a list, such as [256]")
    if error["type"] == "string_pattern_mismatch":
        message = "takes letters, digits, dots, dashes and underscores, a letter or digit first"
    shown = f", not {brief(repr(given))}" if isinstance(given, str | int | float | bool) else ""
    what, semicolon, rest = message.partition(";")
    return f"{dotted}: {what}{shown}{semicolon}{rest}"


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Names of the fields that the table at `location` may hold."""
    table: type[Spec] = Recipe
    tables: dict[str, type[Spec]] = {
        "data": DataSpec,
        "augment": AugmentSpec,
        "backbone": BackboneSpec,
        "head": HeadSpec,
        "phases": PhaseSpec,
        "evaluation": EvaluationSpec,
    }
    for part in location:
        table = tables.get(str(part), table)
    return list(table.model_fields)


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
