"""The five published systems run end to end, each as described and each done right.

Small subsets of real images and real weights. Backbones whose ImageNet weights no registry carries
take the hub's own path, through a local hub cache that holds random numbers of the right shapes:
that they run is tested here, what they are worth is not. Every system is planned with its own
backbone. Where a large one already runs in a system with the same selector of stages, a small
network of its family runs in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from headstart import workbench
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.plan.plan import make_plan
from headstart.recipe import Recipe, load_recipes, shipped_recipes
from headstart.rundir.run import Run
from tests.recipes import log_of

HUB_ONLY = {
    "resnet50": "resnet50.a1_in1k",
    "vit_small_patch16_224": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "test_resnet": "test_resnet.r160_in1k",
}
SMALL = {"resnet50": "test_resnet", "vgg16": "mobilenetv2_100"}
# Head and last stage (s1), fifty layers (s5) and all convolutions (s4) of the large ones.
AS_PUBLISHED = {("s1", 0), ("s1", 1), ("s4", 1), ("s5", 1), ("s5-right", 1)}
SYSTEMS = [
    (name, number)
    for name, runs in {
        "s1": 3,
        "s1-right": 5,
        "s2": 1,
        "s2-right": 1,
        "s2-free": 1,
        "s3": 2,
        "s3-right": 2,
        "s4": 2,
        "s4-right": 2,
        "s5": 2,
        "s5-right": 2,
    }.items()
    for number in range(runs)
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache as the hub's client leaves it: a commit's snapshot and a ref to it."""
    import timm

    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    for name, tagged in HUB_ONLY.items():
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = folder / f"models--timm--{tagged}"
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        save_file(timm.create_model(name).state_dict(), snapshot / "model.safetensors")
    return folder


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe on few images and few pixels, an epoch a phase, a view an image."""
    data = recipe.data
    changes: dict[str, Any] = {
        "source": "cifar10-mini",
        "train_limit": 30,
        "test_limit": 10,
        "val_fraction": 0.34,
        "size": 32,
        "resize_via": tuple(min(via, 40) for via in data.resize_via),
    }
    phases = []
    for phase in recipe.phases:
        cached = phase.views != 0 and phase.train not in ("convs", "all", "from_scratch")
        short = {"epochs": 1} if phase.epochs else {}
        phases.append(phase.model_copy(update={**short, **({"views": 1} if cached else {})}))
    return recipe.model_copy(
        update={
            "data": data.model_copy(update=changes),
            "phases": tuple(phases),
            "batch_size": 10,
        }
    )


def with_small_backbone(recipe: Recipe) -> Recipe:
    name = recipe.backbone.name
    backbone = recipe.backbone.model_copy(update={"name": SMALL.get(name, name)})
    return recipe.model_copy(update={"backbone": backbone})


def test_every_system_ships_as_described_and_done_right() -> None:
    shipped = {name for name in shipped_recipes() if name[0] == "s" and name[1].isdigit()}
    assert shipped == {name for name, _ in SYSTEMS}
    assert {name[:2] for name in shipped} == {"s1", "s2", "s3", "s4", "s5"}
    for name in shipped:
        assert len(load_recipes(name)) == sum(1 for system, _ in SYSTEMS if system == name)


def test_the_systems_are_as_they_were_described() -> None:
    """The settings that system after system published, mistakes included."""
    s1 = load_recipes("s1")
    assert [r.backbone.name for r in s1] == ["resnet50", "vgg16", "mobilenetv2_100"]
    assert {(r.data.source, r.data.size, r.data.normalize) for r in s1} == {
        ("cifar100", 32, "weights")
    }
    (s2,) = load_recipes("s2")
    assert (s2.data.size, s2.head.hidden, s2.data.augment.flip) == (96, (), True)
    assert [(p.train, p.epochs, p.lr) for p in s2.phases] == [
        ("head", 10, 1e-3),
        ("from:blocks.4.1", 10, 1e-5),
    ]
    baseline, final = load_recipes("s3")
    for run in (baseline, final):
        assert (run.backbone.name, run.data.normalize, run.data.size) == ("resnet50", "unit", 32)
    assert [p.train for p in baseline.phases] == ["head"]
    assert [p.train for p in final.phases] == ["head", "last_stage"]
    augment = final.data.augment
    assert all((augment.flip, augment.rotate, augment.zoom, augment.shift))
    custom, resnet = load_recipes("s4")
    assert {r.data.train_limit for r in (custom, resnet)} == {10_000}
    assert (custom.backbone.name, custom.phases[0].train) == ("small_cnn", "from_scratch")
    assert (resnet.data.resize_via, resnet.data.size) == ((64,), 224)
    head = resnet.head
    assert (head.hidden, head.batch_norm, head.dropout) == ((256, 128, 64), True, 0.6)
    assert head.l2
    assert [(p.train, p.optimizer, p.epochs, p.lr) for p in resnet.phases] == [
        ("head", "adam", 10, 1e-4),
        ("convs", "adam", 3, 1e-5),
    ]
    s5 = load_recipes("s5")
    assert [r.backbone.name for r in s5] == ["mobilenetv2_100", "resnet50"]
    for run in s5:
        assert (run.data.size, run.data.normalize, bool(run.head.dropout)) == (224, "unit", True)
        first, second = run.phases
        assert (first.epochs, first.schedule, bool(first.patience)) == (30, "plateau", True)
        assert (second.train, (second.lr or 1) < (first.lr or 0)) == ("last_layers:50", True)


def test_done_right_nothing_is_scaled_or_sized_against_the_weights() -> None:
    for name in {name for name, _ in SYSTEMS if name.endswith(("-right", "-free"))}:
        for run in load_recipes(name):
            assert run.data.normalize == "weights"
            assert not run.data.resize_via
            assert run.backbone.name == "small_cnn" or (run.data.size or 224) >= 96


@pytest.mark.parametrize(("name", "number"), SYSTEMS)
@pytest.mark.usefixtures("cache", "real_weights")
def test_systems_run(
    name: str, number: int, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    published = load_recipes(name)[number]
    plan = make_plan(shrink(published), create_runtime("cpu"), Reporter())
    assert all(phase.holding or phase.spec.train == "head" for phase in plan.phases)
    recipe = published if (name, number) in AS_PUBLISHED else with_small_backbone(published)
    run = workbench.run(shrink(recipe), out=tmp_path / "run")
    assert run.finished
    check_weights(run, recipe)
    done = [event for event in log_of(run) if event["event"] == "phase_done"]
    assert len(done) == len(recipe.phases)
    assert run.metrics.test.n == 10
    assert list(run.provenance.marks) == expected_marks(run.recipe)
    assert (run.path / "report" / "report.html").stat().st_size > 10_000


def expected_marks(recipe: Recipe) -> list[str]:
    """What every table must say of pixels that are not as the weights expect them."""
    unit = ["unit scaling"] if recipe.data.normalize == "unit" else []
    return unit + (["resized via 40"] if recipe.data.resize_via else [])


def check_weights(run: Run, recipe: Recipe) -> None:
    """Registry weights where there are any, else the hub's path; from scratch only when asked."""
    provider = run.provenance.weights.provider
    name = run.recipe.backbone.name.partition(".")[0]
    if recipe.backbone.weights == "random":
        assert provider == "random"
    else:
        assert provider == ("hub" if name in HUB_ONLY else "registry")
