"""The tables of a recipe: data, backbone, head, phases, evaluation; every field declared once.

The name, type, default and help of a field are declared here. The TOML, `--set`, the docs and the
error messages use them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from headstart.errors import did_you_mean
from headstart_predict.framing import Framing

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e9)]
# The bounds only stop what cannot be meant, and what no array could hold.
Positive = Annotated[int, Field(gt=0, le=1_000_000_000)]
Epochs = Annotated[int, Field(gt=0, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000)]
Folds = Annotated[int, Field(ge=0, le=100)]
Width = Annotated[int, Field(gt=0, le=65_536)]
Side = Annotated[int, Field(ge=8, le=1024)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
LONGEST_LIST = 32

# How images are grouped, besides by a regular expression.
GROUPINGS = ("auto", "column", "folder", "time", "duplicates")
# What a phase may train, besides last_layers:N and from:MODULE.
PARTS = ("head", "last_stage", "convs", "all", "from_scratch")


class Spec(BaseModel):
    """Base of every part of a recipe: immutable, equal by value, refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_max_length=4096
    )


class AugmentSpec(Spec):
    """Random changes of a training image; all zero means none. All geometry is one warp."""

    flip: bool = Field(False, description="mirror left to right, half of the time")
    rotate: Annotated[float, Field(ge=0, le=360)] = Field(
        0.0, description="largest rotation either way, degrees"
    )
    zoom: Fraction = Field(0.0, description="largest change of scale either way, fraction")
    shift: Fraction = Field(0.0, description="largest shift along each axis, fraction of the side")
    brightness: Fraction = Field(0.0, description="largest change of brightness, fraction")
    contrast: Fraction = Field(0.0, description="largest change of contrast, fraction")
    saturation: Fraction = Field(
        0.0, description="largest change of saturation around each pixel's grey, fraction"
    )
    erasing: Share = Field(
        0.0,
        description="probability that a rectangle of 2 to 33 % of the image takes the mean colour "
        "(random erasing, Zhong et al. 2020)",
    )
    trivial: bool = Field(
        False,
        description="TrivialAugment Wide: one of 14 operations an image, of random strength "
        "(Müller & Hutter 2021)",
    )
    mixup: Share = Field(
        0.0,
        description="share of images mixed with their successor in the epoch's order, "
        "lambda ~ Beta(0.2, 0.2) (Zhang et al. 2018)",
    )
    cutmix: Share = Field(
        0.0,
        description="share of images with a rectangle of their successor, area ~ uniform "
        "(Yun et al. 2019); nothing where a phase begins at tokens or pooled features",
    )

    @model_validator(mode="after")
    def _mixed_once(self) -> AugmentSpec:
        if self.mixup + self.cutmix > 1:
            raise ValueError("mixup and cutmix are shares of the images: together at most 1")
        return self

    @property
    def per_image(self) -> AugmentSpec:
        """The changes to each image by itself, without mixup and CutMix of the training loop."""
        return self.model_copy(update={"mixup": 0.0, "cutmix": 0.0})

    @property
    def active(self) -> bool:
        """Whether views of an image differ."""
        return self.per_image != AugmentSpec()


class DataSpec(Spec):
    """Which images, split how, at what size."""

    source: str = Field(
        description="cifar10, cifar100, cifar10-mini, folder:PATH or manifest:PATH, a table "
        "(.csv, .tsv, .parquet) with columns path, label and, if you like, split and group"
    )
    label_from: str | None = Field(
        None,
        description="of a folder without class folders, a regular expression for the whole name of "
        "a file without its suffix, whose group `label` is the class, such as "
        r"'(?P<label>.+)_\d+'",
    )
    labels: Literal["one", "many"] = Field(
        "one",
        description="how many labels an image has: one; or many, any number of them and also none, "
        "from a table (manifest:PATH) whose labels are separated by |, such as cat|dog, or are "
        "lists in Parquet",
    )
    group: str | None = Field(
        None,
        description="images that stay in one part where a set is split: column, a table's column "
        "group; folder, those of one folder in a class folder; time, photos of a class taken "
        "within 60 s of another; duplicates, near-duplicates; auto, the column, else "
        "near-duplicates; or a regular expression that is searched in the path, with a group "
        "`group`",
    )
    train_limit: Positive | None = Field(
        None,
        description="images to take from train, class-balanced; validation is split off them "
        "unless the folder has a validation split",
    )
    test_limit: Positive | None = Field(None, description="test images to use, class-balanced")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of train held out as validation, stratified by class"
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share set aside as test where a folder has no test split"
    )
    split_seed: Annotated[Seed, Field(ge=0)] = Field(
        0, description="seed of the splits; independent of the run's seed"
    )
    size: Side | None = Field(
        None, description="pixels a side of the backbone's input; default: that of the weights"
    )
    framing: Framing = Field(
        "crop",
        description="how a photo that is not square becomes a square: crop takes its centre square "
        "and cuts off the rest; pad puts all of it on a square of the mean colour; squash "
        "stretches all of it to a square; headstart fit tries the three where they differ",
    )
    resize_via: Annotated[tuple[Side, ...], Strict(False)] = Field(
        (),
        max_length=LONGEST_LIST,
        description="sizes that images are resized to before `size`, such as [64] for "
        "32 -> 64 -> 224; each step blurs, and none is needed",
    )
    normalize: Literal["weights", "unit"] = Field(
        "weights",
        description="scaling of pixels: weights is the one they were trained with, unit is 0..1",
    )
    augment: AugmentSpec = Field(AugmentSpec(), description="random changes of training images")

    @field_validator("label_from")
    @classmethod
    def _names_the_label(cls, value: str | None) -> str | None:
        if value is not None:
            _require_named_group(value, "label", "")
        return value

    @field_validator("group")
    @classmethod
    def _names_the_group(cls, value: str | None) -> str | None:
        if value is not None and value not in GROUPINGS:
            near = did_you_mean(value, GROUPINGS)
            _require_named_group(value, "group", f"{', '.join(GROUPINGS)}, or ", near)
        return value


def _require_named_group(pattern: str, name: str, others: str, near: str = "") -> None:
    """Raises ValueError where a pattern is no regular expression with a group of this name."""
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"takes {others}a regular expression: {error}") from error
    if name not in compiled.groupindex:
        raise ValueError(
            f"takes {others}a regular expression with a group {name}, such as "
            f"'(?P<{name}>.+)_.*'{near}"
        )


class BackboneSpec(Spec):
    """Which pretrained network, with which weights."""

    name: str = Field(description='any timm name, a well-known alias, or "small_cnn"')
    weights: str = Field("auto", description="auto, hub, registry, file:PATH or random")

    @field_validator("weights")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        if value in ("auto", "hub", "registry", "random") or value.startswith("file:"):
            return value
        raise ValueError("weights must be auto, hub, registry, random or file:PATH")


class HeadSpec(Spec):
    """The head: the layers on top of the backbone's pooled features."""

    hidden: Annotated[tuple[Width, ...], Strict(False)] = Field(
        (), max_length=LONGEST_LIST, description="sizes of the hidden layers; [] is a linear head"
    )
    batch_norm: bool = Field(False, description="batch norm after each hidden layer")
    dropout: Fraction = Field(0.0, description="dropout before each linear layer")
    l2: Amount | None = Field(
        None,
        description="weight of the penalty l2/2 * |W|^2 on the head's matrices; default: 0 for a "
        "trained head; for a solved head it is on scaled features and is chosen by five folds of "
        "train and validation, or on validation alone above 10,000 images, above 1,000,000 logits "
        "(images x classes), with several views, or where the folder has a validation split",
    )


class EvaluationSpec(Spec):
    """Further measurements of a trained model besides its scores. They do not change the model."""

    label_efficiency: bool = Field(
        True,
        description="test accuracy of a linear head trained on 1, 5, 25 and 100 images a class; "
        "only where an image has one label and the first phase trains a head on cached features, "
        "which it reuses",
    )
    corruptions: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Strict(False)] = Field(
        (),
        description="severities, 1 to 5, at which test images are corrupted by noise, blur, JPEG, "
        "brightness and contrast (Hendrycks & Dietterich 2019), such as [1, 3, 5]",
    )
    corrupted_images: Positive = Field(
        1000,
        description="how many test images are corrupted, class-balanced; all if there are fewer",
    )
    folds: Folds = Field(
        0,
        description="folds in which all labelled images are predicted by heads that did not see "
        "them, from the one frozen pass; for small data, where a test split says little; 0: none; "
        "only where the recipe trains a head alone",
    )
    fold_repeats: Annotated[int, Field(ge=1, le=100)] = Field(
        5, description="how often these folds are drawn anew"
    )
    positive: str | None = Field(
        None,
        description="with two classes, the name of the positive one, whose recall is the "
        "sensitivity; default: the second",
    )

    @field_validator("folds")
    @classmethod
    def _several(cls, value: int) -> int:
        if value == 1:
            raise ValueError("takes 0, or 2 and more")
        return value

    @field_validator("corruptions")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a severity twice")
        return value


class PhaseSpec(Spec):
    """One phase of training, in which one part of the network changes."""

    train: str = Field(
        description="the part that changes: head; last_stage; last_layers:N, the last N layers "
        "with parameters; from:MODULE, that module and all after it; convs, only the convolutions "
        "of the backbone; all; from_scratch, for random weights; the head always changes"
    )
    optimizer: Literal["auto", "lbfgs", "sgd", "adam", "adamw"] = Field(
        "auto",
        description="lbfgs solves a linear head to the optimum; auto is lbfgs for a head phase "
        "with a linear head and without epochs and lr, otherwise adamw",
    )
    epochs: Epochs | None = Field(None, description="passes over the training images")
    lr: Annotated[float, Field(gt=0, le=1_000)] | None = Field(
        None,
        description="peak learning rate; a phase whose model becomes worse than before it starts "
        "again at a third of the rate, three times at most",
    )
    schedule: Literal["cosine", "constant", "one_cycle", "plateau"] = Field(
        "cosine",
        description="schedule of the learning rate; one_cycle warms up over 30 % of the phase "
        "unless warmup is set; plateau lowers the rate when the validation loss no longer falls",
    )
    warmup: Fraction = Field(0.0, description="share of the phase spent warming up")
    plateau_patience: Epochs = Field(
        3, description="epochs without a lower validation loss before plateau acts"
    )
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="what plateau multiplies the rate by"
    )
    momentum: Fraction = Field(0.9, description="Nesterov momentum of sgd")
    weight_decay: Annotated[float, Field(ge=0, le=1_000)] | None = Field(
        None,
        description="decoupled in adamw (default 0.01), an L2 gradient in sgd (5e-4) and adam (0); "
        "not applied to biases and norms",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="each trained stage has this share of the rate of the stage above it"
    )
    label_smoothing: Fraction = Field(
        0.0, description="share of the target spread over all classes"
    )
    grad_clip: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="largest L2 norm of the gradient of all trained parameters"
    )
    ema: Fraction = Field(
        0.0,
        description="decay per step of the moving average of the weights, which is then validated "
        "and kept; 0: no average",
    )
    norm: Literal["frozen", "train"] | None = Field(
        None,
        description="batch norm inside the trained part; default: frozen for pretrained weights",
    )
    views: Count | None = Field(
        None,
        description="views cached per image: the plain image, and augmented ones; 0 draws a new "
        "view each epoch, which computes the frozen part again; default: 4 with augmentation, "
        "else 1; 0 where no stage is frozen",
    )
    patience: Epochs | None = Field(
        None,
        description="epochs without an improvement on validation before the phase stops; an equal "
        "value of the metric at a lower loss is an improvement",
    )

    @field_validator("train")
    @classmethod
    def _known_part(cls, value: str) -> str:
        kind, colon, argument = value.partition(":")
        if not colon and kind in PARTS:
            return value
        if kind == "last_layers" and re.fullmatch(r"[1-9][0-9]{0,5}", argument):
            return value
        if kind == "from" and argument:
            return value
        near = did_you_mean(kind, PARTS)
        raise ValueError(f"takes {', '.join(PARTS)}, last_layers:N or from:MODULE{near}")
