"""Headstart: pick, adapt and ship the best pretrained image classifier for a data set.

The public names below are resolved when first used, so that importing the package, or asking the
command line for help, loads neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.comparison.leaderboard import Comparison as Comparison
    from headstart.data import load_data as load_data
    from headstart.deployment.predictor import load_predictor as load_predictor
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.evaluation.metrics import score as score
    from headstart.evaluation.predictions import Predictions as Predictions
    from headstart.models.backbones import create_backbone as create_backbone
    from headstart.models.catalogue import list_backbones as list_backbones
    from headstart.models.heads import create_head as create_head
    from headstart.profiling import profiled as profiled
    from headstart.recipe import Recipe as Recipe
    from headstart.recipe import Study as Study
    from headstart.recipe import load_recipe as load_recipe
    from headstart.recipe import load_study as load_study
    from headstart.report import write_report as write_report
    from headstart.resolution import resolve as resolve
    from headstart.rundir import Run as Run
    from headstart.rundir import open_run as open_run
    from headstart.tracking import track as track
    from headstart.training.loop import fit as fit
    from headstart.training.loop import predict as predict
    from headstart.workbench import compare as compare
    from headstart.workbench import run as run

_HOMES = {
    "Comparison": "comparison.leaderboard",
    "HeadstartError": "errors",
    "Predictions": "evaluation.predictions",
    "Recipe": "recipe",
    "Run": "rundir",
    "Study": "recipe",
    "compare": "workbench",
    "create_backbone": "models.backbones",
    "create_head": "models.heads",
    "fit": "training.loop",
    "list_backbones": "models.catalogue",
    "load_data": "data",
    "load_predictor": "deployment.predictor",
    "load_recipe": "recipe",
    "load_study": "recipe",
    "open_run": "rundir",
    "predict": "training.loop",
    "profiled": "profiling",
    "resolve": "resolution",
    "run": "workbench",
    "score": "evaluation.metrics",
    "track": "tracking",
    "write_report": "report",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(import_module(f"headstart.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
