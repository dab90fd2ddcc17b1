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
    from headstart.comparison.records import Comparison as Comparison
    from headstart.data import Description as Description
    from headstart.data import fetch as fetch
    from headstart.data import list_sources as list_sources
    from headstart.data import load_data as load_data
    from headstart.data.check.duplicates import Duplicates as Duplicates
    from headstart.data.inspection import describe as describe
    from headstart.data.inspection import draw_samples as draw_samples
    from headstart.data.inspection import duplicates as duplicates
    from headstart.deployment.predictor import Answer as Answer
    from headstart.deployment.predictor import Predictor as Predictor
    from headstart.deployment.predictor import load_predictor as load_predictor
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.evaluation.metrics import score as score
    from headstart.evaluation.predictions import Predictions as Predictions
    from headstart.features.room import clear_cache as clear_cache
    from headstart.features.room import list_cache as list_cache
    from headstart.machine.profiling import profiled as profiled
    from headstart.machine.progress import Reporter as Reporter
    from headstart.machine.progress import TerminalReporter as TerminalReporter
    from headstart.models.backbones import create_backbone as create_backbone
    from headstart.models.catalogue import list_backbones as list_backbones
    from headstart.models.heads import create_head as create_head
    from headstart.plan.resolution import resolve as resolve
    from headstart.recipe import Recipe as Recipe
    from headstart.recipe import Study as Study
    from headstart.recipe import load_recipe as load_recipe
    from headstart.recipe import load_recipes as load_recipes
    from headstart.recipe import load_study as load_study
    from headstart.recipe import shipped_recipes as shipped_recipes
    from headstart.report import write_report as write_report
    from headstart.report.card import write_card as write_card
    from headstart.report.markdown import write_markdown as write_markdown
    from headstart.rundir.run import Run as Run
    from headstart.rundir.run import open_run as open_run
    from headstart.rundir.run import open_runs as open_runs
    from headstart.selection.preview import Preview as Preview
    from headstart.selection.preview import preview as preview
    from headstart.selection.preview import preview_all as preview_all
    from headstart.specs import DataSpec as DataSpec
    from headstart.studies import compare as compare
    from headstart.tracking import track as track
    from headstart.training.loop import fit as fit
    from headstart.training.loop import predict as predict
    from headstart.workbench import run as run

_HOMES = {
    "Answer": "deployment.predictor",
    "Comparison": "comparison.records",
    "DataSpec": "specs",
    "Description": "data",
    "Duplicates": "data.check.duplicates",
    "Explanation": "comparison.explain",
    "HeadstartError": "errors",
    "Predictions": "evaluation.predictions",
    "Predictor": "deployment.predictor",
    "Preview": "selection.preview",
    "Recipe": "recipe",
    "Reporter": "machine.progress",
    "Run": "rundir.run",
    "Study": "recipe",
    "TerminalReporter": "machine.progress",
    "clear_cache": "features.room",
    "compare": "studies",
    "create_backbone": "models.backbones",
    "create_head": "models.heads",
    "describe": "data.inspection",
    "draw_samples": "data.inspection",
    "duplicates": "data.inspection",
    "explain": "comparison.explain",
    "fetch": "data",
    "fit": "training.loop",
    "list_backbones": "models.catalogue",
    "list_cache": "features.room",
    "list_sources": "data",
    "load_data": "data",
    "load_predictor": "deployment.predictor",
    "load_recipe": "recipe",
    "load_recipes": "recipe",
    "load_study": "recipe",
    "open_run": "rundir.run",
    "open_runs": "rundir.run",
    "predict": "training.loop",
    "preview": "selection.preview",
    "preview_all": "selection.preview",
    "profiled": "machine.profiling",
    "resolve": "plan.resolution",
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
