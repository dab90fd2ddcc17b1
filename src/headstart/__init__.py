"""Headstart: pick, adapt and ship the best pretrained image classifier for a data set.

The public names below are resolved when first used, so that importing the package, or asking the
command line for help, loads neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.auditing.audit import audit as audit
    from headstart.auditing.records import Audit as Audit
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
    from headstart.photos import Fitted as Fitted
    from headstart.photos import fit as fit
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
    from headstart.training.loop import predict as predict
    from headstart.workbench import run as run
    from headstart_predict.answers import Answer as Answer

_HOMES = {
    "Answer": "headstart_predict.answers",
    "Audit": "headstart.auditing.records",
    "Comparison": "headstart.comparison.records",
    "DataSpec": "headstart.specs",
    "Description": "headstart.data",
    "Duplicates": "headstart.data.check.duplicates",
    "Explanation": "headstart.comparison.explain",
    "Fitted": "headstart.photos",
    "HeadstartError": "headstart.errors",
    "Predictions": "headstart.evaluation.predictions",
    "Predictor": "headstart.deployment.predictor",
    "Preview": "headstart.selection.preview",
    "Recipe": "headstart.recipe",
    "Reporter": "headstart.machine.progress",
    "Run": "headstart.rundir.run",
    "Study": "headstart.recipe",
    "TerminalReporter": "headstart.machine.progress",
    "audit": "headstart.auditing.audit",
    "clear_cache": "headstart.features.room",
    "compare": "headstart.studies",
    "create_backbone": "headstart.models.backbones",
    "create_head": "headstart.models.heads",
    "describe": "headstart.data.inspection",
    "draw_samples": "headstart.data.inspection",
    "duplicates": "headstart.data.inspection",
    "explain": "headstart.comparison.explain",
    "fetch": "headstart.data",
    "fit": "headstart.photos",
    "list_backbones": "headstart.models.catalogue",
    "list_cache": "headstart.features.room",
    "list_sources": "headstart.data",
    "load_data": "headstart.data",
    "load_predictor": "headstart.deployment.predictor",
    "load_recipe": "headstart.recipe",
    "load_recipes": "headstart.recipe",
    "load_study": "headstart.recipe",
    "open_run": "headstart.rundir.run",
    "open_runs": "headstart.rundir.run",
    "predict": "headstart.training.loop",
    "preview": "headstart.selection.preview",
    "preview_all": "headstart.selection.preview",
    "profiled": "headstart.machine.profiling",
    "resolve": "headstart.plan.resolution",
    "run": "headstart.workbench",
    "score": "headstart.evaluation.metrics",
    "shipped_recipes": "headstart.recipe",
    "track": "headstart.tracking",
    "write_card": "headstart.report.card",
    "write_markdown": "headstart.report.markdown",
    "write_report": "headstart.report",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
