"""Answers of a model that Headstart has exported: without torch, the same everywhere.

    from headstart_predict import load
    load("bundle").predict(["photo.jpg"])

The names below are resolved when first used, so that a part of the package costs what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart_predict.answers import Answer as Answer
    from headstart_predict.bundle import Bundle as Bundle
    from headstart_predict.bundle import open_bundle as open_bundle
    from headstart_predict.errors import BundleError as BundleError
    from headstart_predict.errors import DataError as DataError
    from headstart_predict.errors import HeadstartError as HeadstartError
    from headstart_predict.predictor import BundlePredictor as BundlePredictor
    from headstart_predict.predictor import load as load
    from headstart_predict.predictor import verify as verify

_HOMES = {
    "Answer": "answers",
    "Bundle": "bundle",
    "BundleError": "errors",
    "BundlePredictor": "predictor",
    "DataError": "errors",
    "HeadstartError": "errors",
    "load": "predictor",
    "open_bundle": "bundle",
    "verify": "predictor",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart_predict' has no attribute {name!r}")
    return getattr(import_module(f"headstart_predict.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
