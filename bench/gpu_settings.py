"""What bench/gpu.py measures, in full and tiny."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    matmul: int  # rows and columns
    copied: int  # bytes
    networks: tuple[str, ...]
    frozen_size: int  # pixels
    frozen_limits: tuple[str, ...]  # overrides of the leaderboard's data
    tuned: str
    tuned_sizes: tuple[int, ...]
    images: int  # of which a fiftieth is for validation
    tested: int
    batch: int
    epochs: int


FULL = Amount(
    matmul=8192,
    copied=2**30,
    networks=(
        "resnet50",
        "mobilenetv2_100",
        "tf_efficientnet_lite0",
        "densenet121",
        "vgg16",
        "convnext_tiny",
        "vit_small_patch16_224",
    ),
    frozen_size=224,
    frozen_limits=(),
    tuned="resnet50",
    tuned_sizes=(128, 224),
    images=10_000,
    tested=2_000,
    batch=128,
    epochs=4,
)


TINY = Amount(
    matmul=256,
    copied=2**22,
    networks=("tf_efficientnet_lite0", "resnet18"),
    frozen_size=32,
    frozen_limits=("data.train_limit=200", "data.test_limit=100"),
    tuned="resnet18",
    tuned_sizes=(32, 64),
    images=200,
    tested=100,
    batch=32,
    epochs=2,
)


@dataclass(frozen=True)
class Setting:
    """One call of this script. weights: "file:PATH" of each network; random: those without any."""

    amount: Amount
    device: str
    source: str
    weights: dict[str, str]
    random: frozenset[str]
