"""Stages: a backbone as a sequence of steps; together they are its forward pass.

A phase can freeze and cache everything below a boundary between two steps. So the steps are as fine
as the architecture allows: a residual block, a dense block, a convolution of a VGG. Every parameter
and buffer belongs to exactly one step. The splits use attribute names of timm's families; a
contract test compares each with timm's forward pass, bit for bit. A family without an entry has two
steps, its features and its pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Stage:
    """One step of a backbone.

    name: timm's name of its first module. group: the part of the architecture that it belongs to
    ("layer4"); `last_stage` trains the last group. owns: name prefixes of the parameters and
    buffers that the step uses. forward: tensor in, tensor out.
    """

    name: str
    group: str
    owns: tuple[str, ...]
    forward: Callable[[torch.Tensor], torch.Tensor]

    def holds(self, parameter_name: str) -> bool:
        """Whether a parameter, buffer or module of the model belongs to this step."""
        path = f"{parameter_name}."
        return any(path.startswith(f"{own}.") for own in self.owns)


def run_stages(stages: Iterable[Stage], x: torch.Tensor) -> torch.Tensor:
    """The output of stages that are applied one after the other."""
    for stage in stages:
        x = stage.forward(x)
    return x


def split_stages(model: nn.Module) -> list[Stage]:
    """The steps of a timm model created with num_classes=0, or of small_cnn and SqueezeNet."""
    for kind in type(model).__mro__:
        if kind.__name__ in _SPLITS and not _differs(type(model), kind):
            return list(_SPLITS[kind.__name__](model))
    return split_in_two(model)


def split_in_two(model: nn.Module) -> list[Stage]:
    """The features and the pooling of any timm model."""
    return list(_split_unknown(model))


def _differs(kind: type[nn.Module], family: type[nn.Module]) -> bool:
    """Whether a class computes its output in another way than the family that it derives from."""
    passes = ("forward", "forward_features", "forward_head")
    return any(getattr(kind, name, None) is not getattr(family, name, None) for name in passes)


def _chain(model: nn.Module, *names: str) -> Callable[[torch.Tensor], torch.Tensor]:
    modules = [model.get_submodule(name) for name in names]

    def forward(x: torch.Tensor) -> torch.Tensor:
        for module in modules:
            x = module(x)
        return x

    return forward


def _step(model: nn.Module, group: str, *names: str, name: str | None = None) -> Stage:
    """A step of modules applied one after the other; by default named after the first one."""
    return Stage(name or names[0], group, names, _chain(model, *names))


def _pool(model: nn.Module, steps: list[Stage]) -> Stage:
    """timm's forward_head up to the pooled features. It owns what no earlier step owns."""
    rest = {
        name.partition(".")[0]
        for name in model.state_dict()
        if not any(step.holds(name) for step in steps)
    }
    return Stage(
        "pool",
        "pool",
        tuple(sorted(rest)),
        lambda x: model.forward_head(x, pre_logits=True),  # type: ignore[operator]  # timm's method
    )


def _children(model: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" for name, _ in model.get_submodule(path).named_children()]


def _split_resnet(model: nn.Module) -> Iterator[Stage]:
    steps = [_step(model, "stem", "conv1", "bn1", "act1", "maxpool", name="stem")]
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        steps += [_step(model, layer, block) for block in _children(model, layer)]
    yield from [*steps, _pool(model, steps)]


def _split_efficientnet(model: nn.Module) -> Iterator[Stage]:
    # MobileNetV2, EfficientNet and its Lite and V2 kinds. MobileNetV3 keeps its last convolution
    # behind the pooling, so there it belongs to the pool step.
    steps = [_step(model, "stem", "conv_stem", "bn1", name="stem")]
    group = "stem"
    for group in _children(model, "blocks"):
        steps += [_step(model, group, block) for block in _children(model, group)]
    if hasattr(model, "bn2"):
        steps.append(_step(model, group, "conv_head", "bn2"))
    yield from [*steps, _pool(model, steps)]


def _split_vgg(model: nn.Module) -> Iterator[Stage]:
    # A step is a convolution with what follows it; a group ends with its max-pool.
    steps: list[Stage] = []
    block = 1
    names: list[str] = []
    for name, module in model.get_submodule("features").named_children():
        if isinstance(module, nn.Conv2d) and names:
            steps.append(_step(model, f"block{block}", *names))
            if isinstance(model.get_submodule(names[-1]), nn.MaxPool2d):
                block += 1
            names = []
        names.append(f"features.{name}")
    steps.append(_step(model, f"block{block}", *names))
    yield from [*steps, _pool(model, steps)]


def _split_densenet(model: nn.Module) -> Iterator[Stage]:
    steps: list[Stage] = []
    names: list[str] = []
    group = "stem"
    for path in _children(model, "features"):
        if "denseblock" in path:
            if names:
                steps.append(_step(model, group, *names, name="stem" if group == "stem" else None))
            group, names = path, []
        names.append(path)
    steps.append(_step(model, group, *names))
    yield from [*steps, _pool(model, steps)]


def _split_convnext(model: nn.Module) -> Iterator[Stage]:
    steps = [_step(model, "stem", "stem")]
    for group in _children(model, "stages"):
        if not isinstance(model.get_submodule(f"{group}.downsample"), nn.Identity):
            steps.append(_step(model, group, f"{group}.downsample"))
        steps += [_step(model, group, block) for block in _children(model, f"{group}.blocks")]
    last = steps.pop()
    steps.append(_step(model, last.group, *last.owns, "norm_pre"))
    yield from [*steps, _pool(model, steps)]


def _split_vit(model: nn.Module) -> Iterator[Stage]:
    # A plain transformer has no stages. A quarter of its blocks counts as one, since the networks
    # it is compared with have four.
    def embed(x: torch.Tensor) -> torch.Tensor:
        x = model._pos_embed(model.patch_embed(x))  # type: ignore[operator]  # timm's method
        embedded: torch.Tensor = model.norm_pre(model.patch_drop(x))  # type: ignore[operator]  # a module
        return embedded

    owned = ("patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre")
    steps = [Stage("patch_embed", "stem", owned, embed)]
    blocks = _children(model, "blocks")
    for number, block in enumerate(blocks):
        steps.append(_step(model, f"quarter{number * 4 // len(blocks) + 1}", block))
    last = steps.pop()
    steps.append(_step(model, last.group, *last.owns, "norm"))
    yield from [*steps, _pool(model, steps)]


def _split_features(model: nn.Module) -> Iterator[Stage]:
    # small_cnn and torchvision's SqueezeNet: a `features` sequence and a `pool`.
    steps = [_step(model, path, path) for path in _children(model, "features")]
    yield from [*steps, Stage("pool", "pool", ("pool",), model.get_submodule("pool"))]


def _split_unknown(model: nn.Module) -> Iterator[Stage]:
    prefixes = tuple(sorted({name.partition(".")[0] for name in model.state_dict()}))
    head = tuple(p for p in prefixes if p in ("head", "head_norm", "fc_norm", "norm_head"))
    body = tuple(p for p in prefixes if p not in head)
    features = Stage(
        "features",
        "features",
        body,
        lambda x: model.forward_features(x),  # type: ignore[operator]  # timm's method
    )
    yield from [features, _pool(model, [features])]


_SPLITS: dict[str, Callable[[nn.Module], Iterator[Stage]]] = {
    "ResNet": _split_resnet,
    "EfficientNet": _split_efficientnet,
    "MobileNetV3": _split_efficientnet,
    "VGG": _split_vgg,
    "DenseNet": _split_densenet,
    "ConvNeXt": _split_convnext,
    "VisionTransformer": _split_vit,
    "SqueezeNetTrunk": _split_features,
    "SmallCNN": _split_features,
}
