"""Backbones: pretrained networks without their classifier, as a sequence of stages.

The only module that builds timm models. A backbone has the identity of its weights and the
preprocessing that they were trained with, so a user never sets a mean or a channel order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from headstart.errors import HeadstartError
from headstart.models.identity import Preprocess, Weights, WeightsIdentity
from headstart.models.names import canonical_name
from headstart.models.small_cnn import SmallCNN
from headstart.models.stages import Stage, run_stages, split_in_two, split_stages
from headstart.models.weights import check_state, locate_weights, read_state
from headstart.specs import BackboneSpec


class SqueezeNetTrunk(nn.Module):
    """torchvision's SqueezeNet 1.1 without its classifier (timm has none): (n, 512)."""

    num_features = 512

    def __init__(self) -> None:
        super().__init__()
        # Imported here: torchvision takes seconds to load, and only this network needs it.
        from torchvision.models import squeezenet1_1

        self.features = squeezenet1_1().features
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.pool(self.features(x))
        return pooled


# What a network raises at a size that it cannot take.
_REFUSALS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
# Networks whose steps were seen not to give their own forward pass.
_IN_TWO: set[str] = set()


class StagesError(HeadstartError):
    """Steps that do not give the network's own forward pass. From now on it has two."""


class Backbone(nn.Module):
    """A network from normalised pixels (n, 3, size, size) to features (n, num_features).

    `stages()` composes to `features()`; parameter names are those of the wrapped `model`.
    """

    def __init__(self, model: nn.Module, identity: WeightsIdentity, preprocess: Preprocess) -> None:
        super().__init__()
        self.model = model
        self.identity = identity
        self.preprocess = preprocess
        split = split_in_two if self.name in _IN_TWO else split_stages
        self._stages = tuple(split(model))
        self._shapes: dict[int, tuple[tuple[int, ...], ...]] = {}

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def pretrained(self) -> bool:
        return self.identity.provider != "random"

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        width: Any = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        return int(width)

    def stages(self) -> Sequence[Stage]:
        return self._stages

    def shapes(self, size: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of an image of `size` pixels a side and of what each stage makes of it."""
        if size not in self._shapes:
            x = torch.zeros(1, 3, size, size, device=next(self.model.parameters()).device)
            found = [tuple(x.shape[1:])]
            # In training mode the pass would move the statistics of batch norms.
            training = [module for module in self.model.modules() if module.training]
            self.model.eval()
            with torch.inference_mode():
                for stage in self._stages:
                    x = stage.forward(x)
                    found.append(tuple(x.shape[1:]))
            for module in training:
                module.training = True
            self._shapes[size] = tuple(found)
        return self._shapes[size]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return run_stages(self._stages, x)

    forward = features

    def prefix_hash(self, boundary: int) -> str:
        """SHA-256 of every parameter and buffer below the boundary, in order."""
        digest = hashlib.sha256()
        below = self._stages[:boundary]
        for name, tensor in self.model.state_dict().items():
            if any(stage.holds(name) for stage in below):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def create_backbone(spec: BackboneSpec, *, size: int | None = None) -> Backbone:
    """A backbone with its weights loaded, in eval mode, for inputs of `size` pixels a side.

    size: by default that of the weights. It matters for networks whose parameters depend on it
    (position embeddings are resampled). Random weights come from torch's generator. Raises
    HeadstartError for an unknown name, or weights that cannot be found or fetched.
    """
    return load_backbone(locate_weights(canonical_name(spec.name), spec.weights), size=size)


def load_backbone(weights: Weights, *, size: int | None = None) -> Backbone:
    """The backbone of weights that are already located."""
    if weights.path is None:
        model = build_architecture(weights.identity.name, size=size)
    else:
        with without_initialization():
            model = build_architecture(weights.identity.name, size=size)
        state = _fit_to_size(model, read_state(weights))
        own = model.state_dict()
        check_state(own, state)
        model.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
    backbone = Backbone(model, weights.identity, weights.preprocess).eval()
    pixels = size or weights.preprocess.size
    try:
        compare_stages(backbone, pixels)
    except _REFUSALS as error:
        raise _too_small(weights, pixels) from error
    return backbone


def compare_stages(backbone: Backbone, size: int) -> None:
    """Hold the steps of a backbone, in eval mode, against the forward pass of its model.

    Raises StagesError where they differ, and what the model raises at a size that it cannot take.
    """
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own, staged = backbone.model(x), backbone(x)
    tolerance = 1e-3 * float(own.abs().max())
    if own.shape == staged.shape and torch.allclose(own, staged, rtol=1e-3, atol=tolerance):
        return
    name = backbone.name
    if name in _IN_TWO:
        raise HeadstartError(
            f"{name}: its features and its pooling do not give its own forward pass: choose "
            "another backbone"
        )
    _IN_TWO.add(name)
    raise StagesError(
        f"{name}: its steps do not give its own forward pass: it is taken in two, features and "
        "pooling"
    )


def build_architecture(name: str, *, size: int | None = None) -> nn.Module:
    """The network that `name` stands for, without a classifier and without weights."""
    if name == "small_cnn":
        return SmallCNN()
    if name == "squeezenet1_1":
        return SqueezeNetTrunk()
    if not re.fullmatch(r"[\w.-]+", name):  # timm would ask a hub for "hf-hub:..."
        raise HeadstartError(f"{name}: not the name of a network: addresses are not followed")
    import timm

    kwargs: dict[str, Any] = {}
    fixed = timm.get_pretrained_cfg(name)
    if size is not None and fixed is not None and fixed.fixed_input_size:
        kwargs["img_size"] = size
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **kwargs)
    except _REFUSALS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HeadstartError(f"{name} cannot take {size} pixels: {reason}") from error
    if type(model).__name__ == "VGG":
        # The two layers with 4,096 units are part of the classifier and need 224 pixels. So the
        # backbone is the convolutional trunk, pooled.
        model.pre_logits = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model.head = _PassThrough()
        model.head_hidden_size = model.num_features
    return model


class without_initialization(TorchFunctionMode):  # noqa: N801  # used like a function
    """Within the block, new layers keep the memory they get: every value is loaded afterwards.

    Random numbers for a network take a second per 100 million parameters, and are overwritten.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_RANDOM = frozenset(
    {
        nn.init.kaiming_uniform_,
        nn.init.kaiming_normal_,
        torch.Tensor.uniform_,
        torch.Tensor.normal_,
        torch.Tensor.erfinv_,
    }
)


def build_on_meta(name: str, *, size: int | None = None) -> nn.Module:
    """`build_architecture` on the meta device: names and shapes, without memory or values."""
    with torch.device("meta"):
        return build_architecture(name, size=size)


def create_meta_backbone(weights: Weights, *, size: int) -> Backbone:
    """The backbone of located weights on the meta device, in eval mode: nothing is read.

    Plans of the same weights and size share it, so it must not be changed. Raises HeadstartError
    where the network cannot take so many pixels a side.
    """
    in_two = weights.identity.name in _IN_TWO
    backbone = _meta_backbone(weights.identity, weights.preprocess, size, in_two)
    if backbone is None:
        raise _too_small(weights, size)
    return backbone


@lru_cache(maxsize=64)
def _meta_backbone(
    identity: WeightsIdentity, preprocess: Preprocess, size: int, in_two: bool
) -> Backbone | None:
    """in_two: whether `Backbone` takes the network in two; here it is a part of the key. None where
    the network cannot take this size."""
    model = _taking(identity.name, size)
    return None if model is None else Backbone(model, identity, preprocess).eval()


def _taking(name: str, size: int) -> nn.Module | None:
    """The network on the meta device, in eval mode; None where it cannot take this size.

    Its shapes alone are computed. So an answer takes as long as it takes to build the network.
    """
    try:
        model = build_on_meta(name, size=size).eval()
        with torch.inference_mode():
            model(torch.empty(1, 3, size, size, device="meta"))
    except NotImplementedError:  # an operation that needs values: seen when the weights are loaded
        return model
    except HeadstartError as error:
        if error.__cause__ is None:  # not about its size
            raise
        return None
    except _REFUSALS:
        return None
    return model


def _too_small(weights: Weights, size: int) -> HeadstartError:
    """The error for a size that the network cannot take, with the nearest one that it can.

    Between this size and that of the weights is a step from no to yes. Most networks have one; a
    few take multiples of a number alone.
    """
    name, refused, taken = weights.identity.name, size, weights.preprocess.size
    if _taking(name, taken) is None:
        return HeadstartError(
            f"{name} takes no inputs of {size} pixels a side: set another data.size"
        )
    while abs(taken - refused) > 1:
        middle = (refused + taken) // 2
        if _taking(name, middle) is None:
            refused = middle
        else:
            taken = middle
    least = taken > size and _taking(name, taken + 1) is not None
    ways = f"the smallest that works is {taken}" if least else f"{taken} works"
    return HeadstartError(f"data.size = {size}: {name} cannot take inputs of that size: {ways}")


class _PassThrough(nn.Module):
    """Replaces timm's VGG head, which is called with `pre_logits`. It does nothing."""

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x


def _fit_to_size(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Resample position embeddings where the model was built for another input size."""
    if type(model).__name__ != "VisionTransformer":
        return state
    from timm.models.vision_transformer import checkpoint_filter_fn

    fitted: dict[str, torch.Tensor] = checkpoint_filter_fn(state, model)
    return fitted
