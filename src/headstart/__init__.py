"""Headstart: pick, adapt and ship the best pretrained image classifier for a data set.

The public names below are resolved when first used, so that importing the package, or asking the
command line for help, loads neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.comparison.explain import Explanation as Explanation
    from headstart.comparison.explain import explain as explain
    from headstart.comparison.leaderboard import Comparison as Comparison
    from headstart.data import Description as Description
    from headstart.data import fetch as fetch
    from headstart.data import list_sources as list_sources
    from headstart.data import load_data as load_data
    from headstart.data.leakage import Leakage as Leakage
    from headstart.deployment.predictor import Answer as Answer
    from headstart.deployment.predictor import Predictor as Predictor
    from headstart.deployment.predictor import load_predictor as load_predictor
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.evaluation.metrics import score as score
    from headstart.evaluation.predictions import Predictions as Predictions
    from headstart.inspection import describe as describe
    from headstart.inspection import draw_samples as draw_samples
    from headstart.inspection import duplicates as duplicates
    from headstart.models.backbones import create_backbone as create_backbone
    from headstart.models.catalogue import list_backbones as list_backbones
    from headstart.models.heads import create_head as create_head
    from headstart.profiling import profiled as profiled
    from headstart.progress import Reporter as Reporter
    from headstart.progress import TerminalReporter as TerminalReporter
    from headstart.recipe import Recipe as Recipe
    from headstart.recipe import Study as Study
    from headstart.recipe import load_recipe as load_recipe
    from headstart.recipe import load_recipes as load_recipes
    from headstart.recipe import load_study as load_study
    from headstart.recipe import shipped_recipes as shipped_recipes
    from headstart.report import write_report as write_report
    from headstart.report.card import write_card as write_card
    from headstart.report.markdown import write_markdown as write_markdown
    from headstart.resolution import resolve as resolve
    from headstart.rundir import Run as Run
    from headstart.rundir import open_run as open_run
    from headstart.rundir import open_runs as open_runs
    from headstart.specs import DataSpec as DataSpec
    from headstart.tracking import track as track
    from headstart.training.cache import clear_cache as clear_cache
    from headstart.training.cache import list_cache as list_cache
    from headstart.training.loop import fit as fit
    from headstart.training.loop import predict as predict
    from headstart.workbench import Preview as Preview
    from headstart.workbench import compare as compare
    from headstart.workbench import preview as preview
    from headstart.workbench import preview_all as preview_all
    from headstart.workbench import run as run

_HOMES = {
    "Answer": "deployment.predictor",
    "Comparison": "comparison.leaderboard",
    "DataSpec": "specs",
    "Description": "data",
    "Explanation": "comparison.explain",
    "HeadstartError": "errors",
    "Leakage": "data.leakage",
    "Predictions": "evaluation.predictions",
    "Predictor": "deployment.predictor",
    "Preview": "workbench",
    "Recipe": "recipe",
    "Reporter": "progress",
    "Run": "rundir",
    "Study": "recipe",
    "TerminalReporter": "progress",
    "clear_cache": "training.cache",
    "compare": "workbench",
    "create_backbone": "models.backbones",
    "create_head": "models.heads",
    "describe": "inspection",
    "draw_samples": "inspection",
    "duplicates": "inspection",
    "explain": "comparison.explain",
    "fetch": "data",
    "fit": "training.loop",
    "list_backbones": "models.catalogue",
    "list_cache": "training.cache",
    "list_sources": "data",
    "load_data": "data",
    "load_predictor": "deployment.predictor",
    "load_recipe": "recipe",
    "load_recipes": "recipe",
    "load_study": "recipe",
    "open_run": "rundir",
    "open_runs": "rundir",
    "predict": "training.loop",
    "preview": "workbench",
    "preview_all": "workbench",
    "profiled": "profiling",
    "resolve": "resolution",
    "run": "workbench",
    "score": "evaluation.metrics",
    "shipped_recipes": "recipe",
    "track": "tracking",
    "write_card": "report.card",
    "write_markdown": "report.markdown",
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
