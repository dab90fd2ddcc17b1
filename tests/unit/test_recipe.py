"""Recipes and studies: strict, located errors, overrides, round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.errors import RecipeError
from headstart.recipe import Recipe, load_recipe, load_recipes, load_study, shipped_recipes

RECIPE = """\
name = "two-phase"
[data]
source = "cifar10"
augment = { flip = true, rotate = 15 }
[backbone]
name = "mobilenetv2_100"
[head]
hidden = [256]
[[phases]]
train = "head"
epochs = 10
lr = 1e-3
[[phases]]
train = "last_stage"
epochs = 10
lr = 1e-5
"""
STUDY = (
    RECIPE
    + """
[grid]
"backbone.name" = ["resnet50", "vgg16"]
seed = [0, 1]
[[variants]]
name = "scratch"
"backbone.name" = "small_cnn"
phases = [{ train = "all" }]
"""
)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("epochs = 10", "epocs = 10", 11, "unknown key phases.0.epocs; did you mean epochs?"),
        ('"last_stage"', '"some"', 14, "phases.1.train: takes head, last_stage, convs"),
        (
            "rotate = 15",
            "rotat = 15",
            4,
            "unknown key data.augment.rotat; did you mean rotate, contrast?",
        ),
        ('"last_stage"', '"last_stag"', 14, "phases.1.train: takes head, last_stage, convs"),
        ('name = "two-phase"', 'nme = "two-phase"', 1, "unknown key nme; did you mean name?"),
        ('"two-phase"', '"two phases"', 1, "name: takes letters, digits, dots, dashes"),
        ("[head]", "[haed]", 7, "unknown key haed; did you mean head, phases?"),
        ("hidden = [256]", 'hidden = ["a"]', 8, "head.hidden.0: should be a valid integer"),
        ("lr = 1e-5", "lr = -1", 16, "phases.1.lr: should be greater than 0, not -1"),
        ('source = "cifar10"', "source = 10", 3, "data.source: should be a valid string, not 10"),
    ],
)
def test_errors_name_line_and_remedy(
    recipe_file: Path, old: str, new: str, line: int, says: str
) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(edit(recipe_file, old, new))
    assert str(error.value).startswith(f"{recipe_file}, line {line}: {says}")
    assert "\n" not in str(error.value)


def test_missing_and_broken_files(tmp_path: Path, recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"backbone.name is missing"):
        load_recipe(edit(recipe_file, 'name = "mobilenetv2_100"', ""))
    with pytest.raises(RecipeError, match=r"MODULE, not 'haed'; did you mean head\?$"):
        load_recipe(recipe_file, ["backbone.name=vgg16", "phases.0.train=haed"])
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("name = [")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(tmp_path / "broken.toml")
    with pytest.raises(RecipeError, match="did you mean cifar10-probe"):
        load_recipe("cifar10-prob")


def test_overrides(recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file, ["phases.1.lr=3e-5", "data.source=cifar100", "head.hidden=[]", "seed=7"]
    )
    assert recipe.phases[1].lr == 3e-5
    assert (recipe.data.source, recipe.head.hidden, recipe.seed) == ("cifar100", (), 7)
    with pytest.raises(RecipeError, match="write key=value"):
        load_recipe(recipe_file, ["seed"])
    with pytest.raises(RecipeError, match=r"there is no phases\.5\.lr"):
        load_recipe(recipe_file, ["phases.5.lr=1"])
    with pytest.raises(RecipeError, match=r"unknown key data\.sise; did you mean size"):
        load_recipe(recipe_file, ["data.sise=64"])


def test_round_trip_and_fingerprint(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    copy = tmp_path / "copy.toml"
    copy.write_text(recipe.to_toml())
    assert load_recipe(copy) == recipe
    renamed = recipe.model_copy(update={"name": "other"})
    assert fingerprint(renamed) == fingerprint(recipe)
    reseeded = recipe.model_copy(update={"seed": 1})
    assert fingerprint(reseeded) != fingerprint(recipe)


def fingerprint(recipe: Recipe, **changes: str) -> str:
    return recipe.fingerprint(**{"images": "i", "weights": "w", "precision": "float32"} | changes)


def test_a_fingerprint_is_of_what_decides_the_weights(recipe_file: Path, tmp_path: Path) -> None:
    """Content and arithmetic count; places and what is measured afterwards do not."""
    plain = load_recipe(recipe_file)
    measured = load_recipe(recipe_file, ["evaluation.corruptions=[1]"])
    moved = load_recipe(recipe_file, ["data.source=folder:elsewhere", "backbone.weights=file:w"])
    assert fingerprint(measured) == fingerprint(moved) == fingerprint(plain)
    found = {
        fingerprint(plain),
        fingerprint(plain, images="j"),
        fingerprint(plain, weights="v"),
        fingerprint(plain, precision="bfloat16"),
        fingerprint(load_recipe(recipe_file, ["batch_size=16"])),
    }
    assert len(found) == 5
    with pytest.raises(RecipeError, match="did you mean label_efficiency"):
        load_recipe(recipe_file, ["evaluation.label_eficiency=false"])


def test_a_studys_fingerprint_follows_the_content_of_folders(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    here, there = (load_study(path, [f"data.source=folder:{place}"]) for place in ("a", "b"))
    assert here.fingerprint({}) != there.fingerprint({})
    assert here.fingerprint({"folder:a": "1"}) == there.fingerprint({"folder:b": "1"})
    assert here.fingerprint({"folder:a": "1"}) != there.fingerprint({"folder:b": "2"})


def test_study_crosses_grid_and_variants(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    recipes = load_study(path).recipes()
    assert [r.name for r in recipes] == [
        *("resnet50-0", "resnet50-1", "vgg16-0", "vgg16-1"),
        *("scratch-0", "scratch-1"),
    ]
    assert recipes[-1].backbone.name == "small_cnn"
    assert recipes[-1].phases[0].train == "all"
    assert recipes[0].phases[1].train == "last_stage"
    with pytest.raises(RecipeError, match="this is a study; run it with: headstart compare"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed = [0, 1]", "seed = 1", "takes lists"),
        ("[grid]", "[gird]", "unknown key gird"),
        ('name = "scratch"', 'name = "vgg16"', "two runs are called vgg16-0"),
        ('"backbone.name" = ["', '"backbone.nam" = ["', "did you mean name"),
    ],
)
def test_study_errors(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    with pytest.raises(RecipeError, match=says):
        load_study(edit(path, old, new))


def test_a_recipe_is_not_a_study(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="needs a"):
        load_study(recipe_file)


@pytest.mark.parametrize(
    ("study", "override", "taken"),
    [
        ("s3", "phases.0.epochs=1", "variant baseline sets phases"),
        ("s3", "data.augment.flip=false", "variant final sets data.augment"),
        ("demo", "backbone.name=vgg16", "[grid] sets backbone.name"),
        ("s4", "head={}", "variant custom-cnn sets head"),
    ],
)
def test_an_override_that_would_be_lost_is_refused(study: str, override: str, taken: str) -> None:
    with pytest.raises(RecipeError, match="copy the study and edit it") as error:
        load_study(study, [override])
    assert taken in str(error.value)


def test_phases_are_a_list_of_tables(recipe_file: Path) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text[: text.index("[[phases]]")] + '[phases]\ntrain = "head"\n')
    with pytest.raises(RecipeError, match=r"write \[\[phases\]\], not \[phases\]"):
        load_recipe(recipe_file)


def test_every_shipped_recipe_is_valid() -> None:
    shipped = shipped_recipes()
    counts = {name: len(load_recipes(name)) for name in shipped}
    assert len(shipped) >= 16
    assert (counts["cifar10-probe"], counts["demo"], counts["ladder"]) == (1, 5, 4)
    with pytest.raises(RecipeError, match="this is a study; run it with: headstart compare demo"):
        load_recipe("demo")
    assert all(text.startswith("# ") for text in shipped.values())
