"""Resolution: a recipe with every default decided, and refused where it contradicts itself.

The resolved recipe is what a run saves and what its fingerprint names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstart.errors import RecipeError
from headstart.models.identity import Weights
from headstart.models.names import canonical_name
from headstart.models.weights import locate_weights
from headstart.progress import Reporter
from headstart.recipe import Recipe
from headstart.specs import PhaseSpec

DEFAULT_EPOCHS = 10
DEFAULT_DECAY = {"adamw": 0.01, "sgd": 5e-4, "adam": 0.0}
SGD_RATE_RATIO = 10  # its steps are not normalised: it wants larger rates than Adam
# What steers a fit and means nothing to a solver.
_FITTED = (
    "epochs",
    "lr",
    "schedule",
    "warmup",
    "weight_decay",
    "layer_decay",
    "label_smoothing",
    "grad_clip",
    "ema",
    "patience",
)


def resolve(recipe: Recipe, reporter: Reporter | None = None) -> tuple[Recipe, Weights]:
    """The recipe with every default decided, and the weights it will use.

    Running the resolved recipe is the reproduction: the backbone has timm's name, the weights
    name their provider, sizes, epochs and rates are written out. Raises HeadstartError where the
    recipe contradicts itself.
    """
    say = (reporter or Reporter()).say
    name = canonical_name(recipe.backbone.name)
    weights = locate_weights(name, recipe.backbone.weights, notice=say)
    provider = weights.identity.provider
    pretrained = provider != "random"
    first = recipe.phases[0].train
    if not pretrained and first != "from_scratch":
        raise RecipeError(
            f'phases.0: train = "{first}" on random weights would freeze noise: '
            f'use train = "from_scratch", or pretrained weights for {name}'
        )
    for number, phase in enumerate(recipe.phases):
        if pretrained and phase.train == "from_scratch":
            raise RecipeError(
                f'phases.{number}: train = "from_scratch" begins with random weights: '
                'set backbone.weights = "random", or train = "all" to start from pretrained ones'
            )
    # Paths are written out, so that the saved recipe means the same files from anywhere.
    source = recipe.data.source
    if source.startswith("folder:"):
        source = f"folder:{Path(source.removeprefix('folder:')).expanduser().resolve()}"
    size = recipe.data.size or weights.preprocess.size
    data = recipe.data.model_copy(update={"source": source, "size": size})
    chosen = f"file:{weights.path.resolve()}" if provider == "file" and weights.path else provider
    if provider == "hub":  # the tag says which of timm's several weights these are
        name = f"{weights.identity.name}.{weights.identity.tag}"
    backbone = recipe.backbone.model_copy(update={"name": name, "weights": chosen})
    phases = tuple(_resolve_phase(n, p, recipe, pretrained) for n, p in enumerate(recipe.phases))
    changes = {"data": data, "backbone": backbone, "phases": phases}
    return recipe.model_copy(update=changes), weights


def _resolve_phase(number: int, phase: PhaseSpec, recipe: Recipe, pretrained: bool) -> PhaseSpec:
    linear = not recipe.head.hidden and not recipe.head.dropout
    # Where no stage stays frozen there is nothing to cache.
    whole = phase.train in ("all", "from_scratch", "convs")
    optimizer = phase.optimizer
    if optimizer == "auto":
        solvable = phase.train == "head" and linear and phase.views != 0
        named = phase.epochs is not None or phase.lr is not None
        optimizer = "lbfgs" if solvable and not named else "adamw"
    views = phase.views
    if views and whole:
        raise RecipeError(
            f'phases.{number}: train = "{phase.train}" has nothing to cache: leave out views'
        )
    if phase.train == "convs" and phase.norm == "train":
        raise RecipeError(
            f'phases.{number}: train = "convs" keeps batch norm frozen: leave out norm'
        )
    if _needs_larger_batches(recipe, phase, pretrained):
        raise RecipeError(
            f"phases.{number}: batch norm learns nothing from batch_size = 1: raise batch_size"
        )
    if views is None:
        views = 0 if whole else 4 if recipe.data.augment.active else 1
    if optimizer == "lbfgs":
        changed = [name for name in _FITTED if getattr(phase, name) != _default(name)]
        wrong = (
            (phase.train != "head" and 'it needs train = "head"')
            or (not linear and "it needs a linear head: hidden = [] and dropout = 0")
            or (changed and f"it takes no {' and no '.join(changed)}")
            or (views == 0 and "it needs cached views: views = 1 or more")
        )
        if wrong:
            raise RecipeError(f'phases.{number}: optimizer = "lbfgs" solves the head: {wrong}')
        return phase.model_copy(update={"optimizer": optimizer, "views": views})
    rate = 1e-3 if phase.train == "head" or not pretrained else 1e-4
    if optimizer == "sgd":
        rate *= SGD_RATE_RATIO
    decay = phase.weight_decay
    return phase.model_copy(
        update={
            "optimizer": optimizer,
            "views": views,
            "epochs": phase.epochs or DEFAULT_EPOCHS,
            "lr": phase.lr or rate,
            "norm": phase.norm or ("frozen" if pretrained else "train"),
            "weight_decay": DEFAULT_DECAY[optimizer] if decay is None else decay,
        }
    )


def _default(name: str) -> Any:
    return PhaseSpec.model_fields[name].default


def _needs_larger_batches(recipe: Recipe, phase: PhaseSpec, pretrained: bool) -> bool:
    moving = phase.train != "head" and (phase.norm or ("frozen" if pretrained else "train"))
    in_head = recipe.head.batch_norm and bool(recipe.head.hidden)
    return recipe.batch_size == 1 and (moving == "train" or in_head)
