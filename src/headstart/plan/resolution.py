"""Resolution decides every default of a recipe, and refuses one that contradicts itself.

A run saves the resolved recipe, and its fingerprint is of the resolved recipe.
"""

from __future__ import annotations

from typing import Any

from headstart.data.sources.places import absolute_source
from headstart.errors import RecipeError
from headstart.machine.notebook import default_reporter
from headstart.machine.progress import Reporter
from headstart.models.freezing import norm_mode
from headstart.models.identity import Weights
from headstart.models.names import canonical_name
from headstart.models.weights import locate_weights
from headstart.recipe import Recipe
from headstart.specs import PhaseSpec

DEFAULT_EPOCHS = 10
DEFAULT_DECAY = {"adamw": 0.01, "sgd": 5e-4, "adam": 0.0}
SGD_RATE_RATIO = 10  # SGD does not normalise its steps, so it needs larger rates than Adam
# Fields that a fit uses and a solver does not.
_FITTED = (
    "epochs",
    "lr",
    "schedule",
    "warmup",
    "momentum",
    "plateau_patience",
    "plateau_factor",
    "weight_decay",
    "layer_decay",
    "label_smoothing",
    "grad_clip",
    "ema",
    "patience",
)


def resolve(recipe: Recipe, reporter: Reporter | None = None) -> tuple[Recipe, Weights]:
    """The recipe with every default decided, and the weights it will use.

    The resolved recipe reproduces the run: it has timm's name of the backbone, the provider of the
    weights, and all sizes, epochs and rates. Raises HeadstartError where the recipe contradicts
    itself.
    """
    say = (reporter or default_reporter()).say
    name = canonical_name(recipe.backbone.name)
    weights = locate_weights(name, recipe.backbone.weights, say=say)
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
    _refuse_what_nothing_uses(recipe)
    refuse_for_labels(recipe)
    # Paths become absolute, so that the saved recipe means the same files in any folder.
    source = absolute_source(recipe.data.source)
    size = recipe.data.size or weights.preprocess.size
    data = recipe.data.model_copy(update={"source": source, "size": size})
    chosen = f"file:{weights.path.resolve()}" if provider == "file" and weights.path else provider
    if provider == "hub":  # timm has several weights for a name; the tag says which
        name = f"{weights.identity.name}.{weights.identity.tag}"
    backbone = recipe.backbone.model_copy(update={"name": name, "weights": chosen})
    phases = tuple(_resolve_phase(n, p, recipe, pretrained) for n, p in enumerate(recipe.phases))
    evaluation = recipe.evaluation
    if recipe.many_labels:  # a curve of images a class needs images of one class
        evaluation = evaluation.model_copy(update={"label_efficiency": False})
    changes = {
        "data": data,
        "evaluation": evaluation,
        "backbone": backbone,
        "phases": phases,
        "select_by": recipe.chooses_by,
    }
    return recipe.model_copy(update=changes), weights


def _refuse_what_nothing_uses(recipe: Recipe) -> None:
    if recipe.head.batch_norm and not recipe.head.hidden:
        raise RecipeError("head.batch_norm follows hidden layers: set head.hidden")
    augment = recipe.data.augment
    fitted = [p for p in recipe.phases if _optimizer(p, recipe) != "lbfgs"]
    if (augment.mixup or augment.cutmix) and not fitted:
        raise RecipeError(
            "data.augment: mixup and cutmix need a phase that is trained, and these heads are "
            "solved: set epochs in a phase, or leave them out"
        )


def refuse_for_labels(recipe: Recipe) -> None:
    """Raises RecipeError for a setting that means nothing with so many labels an image."""
    if not recipe.many_labels:
        if recipe.select_by == "mean_ap":
            raise RecipeError(
                'select_by = "mean_ap" is for images with several labels: set data.labels = "many"'
            )
        return
    augment, evaluation = recipe.data.augment, recipe.evaluation
    curve = evaluation.label_efficiency and "label_efficiency" in evaluation.model_fields_set
    smoothed = any(phase.label_smoothing for phase in recipe.phases)
    refused = {
        "balance": recipe.balance != "none",
        "select_by": recipe.select_by not in ("auto", "mean_ap"),
        "phases.label_smoothing": smoothed,
        "data.augment.mixup": bool(augment.mixup),
        "data.augment.cutmix": bool(augment.cutmix),
        "evaluation.label_efficiency": curve,
        "evaluation.corruptions": bool(evaluation.corruptions),
        "evaluation.folds": bool(evaluation.folds),
        "evaluation.positive": evaluation.positive is not None,
    }
    if wrong := [name for name, set_ in refused.items() if set_]:
        remedy = "leave it out" if wrong[0] != "select_by" else "mean_ap chooses"
        raise RecipeError(
            f'{wrong[0]} is for images with one label, and data.labels is "many": {remedy}'
        )


def _resolve_phase(number: int, phase: PhaseSpec, recipe: Recipe, pretrained: bool) -> PhaseSpec:
    # With no frozen stage there is nothing to cache.
    whole = phase.train in ("all", "from_scratch", "convs")
    optimizer, views = _optimizer(phase, recipe), phase.views
    wrong = _contradiction(phase, recipe, optimizer, whole, pretrained)
    if wrong:
        raise RecipeError(f"phases.{number}: {wrong}")
    if views is None:
        views = 0 if whole else 4 if recipe.data.augment.active else 1
    if optimizer == "lbfgs":
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
            "norm": norm_mode(phase, pretrained),
            "weight_decay": DEFAULT_DECAY[optimizer] if decay is None else decay,
        }
    )


def _optimizer(phase: PhaseSpec, recipe: Recipe) -> str:
    """A linear head is solved, unless the phase sets epochs, a rate or an optimizer."""
    if phase.optimizer != "auto":
        return phase.optimizer
    solvable = phase.train == "head" and _linear(recipe) and phase.views != 0
    return "lbfgs" if solvable and phase.epochs is None and phase.lr is None else "adamw"


def _linear(recipe: Recipe) -> bool:
    return not recipe.head.hidden and not recipe.head.dropout


def _contradiction(
    phase: PhaseSpec, recipe: Recipe, optimizer: str, whole: bool, pretrained: bool
) -> str | None:
    """A setting of the phase that is impossible or would be ignored, in words; None if there is
    none."""
    part = f'train = "{phase.train}"'
    if phase.views and whole:
        return f"{part} has nothing to cache: leave out views"
    if (phase.views or 0) > 1 and not recipe.data.augment.active:
        return f"views = {phase.views} needs something to vary: set data.augment, or views = 1"
    if phase.norm == "train" and phase.train in ("head", "convs"):
        return f"{part} keeps batch norm frozen: leave out norm"
    if recipe.batch_size == 1 and _learns_norms(recipe, phase, pretrained):
        return "batch norm cannot learn from batch_size = 1: raise batch_size"
    if optimizer == "lbfgs":
        return _unsolvable(phase, recipe)
    if phase.layer_decay != 1 and phase.train == "head":
        return f"{part} trains no stage, so layer_decay has no effect: leave it out"
    if phase.momentum != _default("momentum") and optimizer != "sgd":
        return f'momentum belongs to optimizer = "sgd", not to {optimizer}'
    for name in ("plateau_patience", "plateau_factor"):
        if getattr(phase, name) != _default(name) and phase.schedule != "plateau":
            return f'{name} belongs to schedule = "plateau", not to {phase.schedule}'
    return None


def _unsolvable(phase: PhaseSpec, recipe: Recipe) -> str | None:
    changed = [name for name in _FITTED if getattr(phase, name) != _default(name)]
    wrong = (
        (phase.train != "head" and 'it needs train = "head"')
        or (not _linear(recipe) and "it needs a linear head: hidden = [] and dropout = 0")
        or (changed and f"it takes no {' and no '.join(changed)}")
        or (phase.views == 0 and "it needs cached views: views = 1 or more")
    )
    if not wrong:
        return None
    if phase.optimizer == "auto":
        return f"a linear head is solved, and then {wrong}; set epochs or lr to train it instead"
    return f'optimizer = "lbfgs" solves the head: {wrong}'


def _default(name: str) -> Any:
    return PhaseSpec.model_fields[name].default


def _learns_norms(recipe: Recipe, phase: PhaseSpec, pretrained: bool) -> bool:
    in_head = recipe.head.batch_norm and bool(recipe.head.hidden)
    return in_head or norm_mode(phase, pretrained) == "train"
