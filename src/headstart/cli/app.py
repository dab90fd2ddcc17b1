"""The command line: verbs that parse, call and print. Results on stdout, progress on stderr.

Large packages are imported inside a verb, so that help is instant. Exit code 2 means an error that
the user can fix; its message is one line and says how.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from headstart.cli.data import data_app
from headstart.cli.deploying import export, predict, serve, verify
from headstart.cli.fitting import fit
from headstart.cli.options import (
    BudgetOption,
    CacheLimitOption,
    DeviceOption,
    JSONOption,
    MaxMbOption,
    MaxMsOption,
    OutOption,
    RescanOption,
    SetOption,
    TrackOption,
    make_reporter,
    rescan_folders,
)
from headstart.cli.recipes import recipes_app
from headstart.errors import HeadstartError, explain_os_error
from headstart.machine.openmp import spin_count
from headstart_predict.streams import (
    finish,
    say_error,
    show,
    show_json,
    standard_streams,
)

if TYPE_CHECKING:
    from headstart.rundir.run import Run

app = typer.Typer(
    name="headstart",
    help="Pick, adapt and ship the best pretrained image classifier for your images.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes", invoke_without_command=True)


class ReportFormat(StrEnum):
    """The formats of the report verb."""

    html = "html"
    md = "md"
    card = "card"


_INTERRUPTED = 130  # typer's exit code for Ctrl-C


def main() -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2."""
    # Both variables must be set before torch is loaded; the user's own values stay.
    os.environ.setdefault("GOMP_SPINCOUNT", spin_count())
    # Operations without a Metal kernel run on the CPU instead of failing.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    with standard_streams():
        try:
            code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
            finish()
        except TyperException as error:
            _fail(error.format_message())
        except HeadstartError as error:
            _fail(str(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            line = explain_os_error(error)
            if line is None:
                raise
            _fail(line)
        except RuntimeError as error:
            if "home directory" not in str(error):  # of a path that begins with ~
                raise
            _fail("~: no home folder is known for it: write the path in full")
        if code == _INTERRUPTED:
            _fail("interrupted: the same command continues from here")
    sys.exit(code or 0)


def _fail(line: str) -> NoReturn:
    say_error(" ".join(line.split("\n")))
    sys.exit(2)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Pick, adapt and ship the best pretrained image classifier for your images."""
    if version:
        from headstart import __version__

        show(__version__)
        raise typer.Exit


app.command()(fit)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or a shipped recipe's name.")],
    overrides: SetOption = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    cache_limit: CacheLimitOption = None,
    rescan: RescanOption = False,
    track: TrackOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure the time by section, for the report.")
    ] = False,
    as_json: JSONOption = False,
) -> None:
    """Train one backbone as a recipe says, and test it once."""
    from headstart.cli.tables.run import format_profile, format_run, run_to_json
    from headstart.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    rescan_folders(rescan, [loaded.data.source])
    with _tracking(track) as on_end:
        from headstart import workbench
        from headstart.machine.profiling import profiled

        with profiled() if profile else contextlib.nullcontext():
            done = workbench.run(
                loaded,
                out=out,
                device=device,
                cache_limit_gb=cache_limit,
                reporter=make_reporter(),
                on_end=on_end,
            )
        if as_json:
            show_json(run_to_json(done))
        else:
            show(format_run(done))
            if profile and done.profile:
                show(format_profile(done))
    if profile and not done.profile:
        raise HeadstartError(f"{done.path}: finished without a profile: choose another --out")


@app.command()
def compare(
    study: Annotated[
        list[str],
        typer.Argument(
            help="A study (TOML file or shipped name), or directories of finished runs or studies."
        ),
    ],
    overrides: SetOption = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    cache_limit: CacheLimitOption = None,
    budget: BudgetOption = None,
    max_ms: MaxMsOption = None,
    max_mb: MaxMbOption = None,
    rescan: RescanOption = False,
    track: TrackOption = None,
    as_json: JSONOption = False,
) -> None:
    """Run a study, or take finished runs, and compare them."""
    from headstart.cli.tables.comparison import comparison_to_json, format_comparison
    from headstart.recipe import load_study
    from headstart.rundir.run import open_runs
    from headstart.text.durations import parse_seconds

    runs_given = all(_holds_runs(path) for path in study)
    if not runs_given and len(study) > 1:
        raise HeadstartError(f"{' '.join(study)}: give one study, or several run directories")
    if runs_given and overrides:
        raise HeadstartError("--set changes recipes, but these runs exist: give a study instead")
    if runs_given and budget:
        raise HeadstartError("--budget chooses what to run, but these runs exist: give their study")
    if runs_given and rescan:
        raise HeadstartError("--rescan reads photos, but these runs exist: give their study")
    budget_s = parse_seconds(budget) if budget else None
    what = open_runs(study) if runs_given else load_study(study[0], overrides or ())
    if not isinstance(what, list):
        rescan_folders(rescan, {each.data.source for each in what.recipes()})
    with _tracking(track, None if isinstance(what, list) else what.name) as on_end:
        from headstart import studies

        result = studies.compare(
            what,
            out=out,
            device=device,
            cache_limit_gb=cache_limit,
            budget_s=budget_s,
            max_ms=max_ms,
            max_mb=max_mb,
            reporter=make_reporter(),
            on_end=on_end,
        )
        if as_json:
            show_json(comparison_to_json(result))
        else:
            show(format_comparison(result))


@app.command()
def explain(
    runs: Annotated[
        list[str], typer.Argument(help="Finished runs, in the order to explain, or a study.")
    ],
    as_json: JSONOption = False,
) -> None:
    """Say what each change of the recipe gained, or what a single run should change."""
    from headstart.cli.tables.explanation import format_explanation
    from headstart.comparison.explain import explain

    explained = explain(*runs)
    if as_json:
        show_json(explained.to_json())
    else:
        show(format_explanation(explained))


@app.command()
def check(
    recipe: Annotated[
        str, typer.Argument(help="A recipe or study: a TOML file, or a shipped one's name.")
    ],
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    cache_limit: CacheLimitOption = None,
    details: Annotated[
        bool, typer.Option("--details", help="Show every phase and resolved recipe of a study.")
    ] = False,
    rescan: RescanOption = False,
    as_json: JSONOption = False,
) -> None:
    """Show what a recipe would do, and estimate its time; trains nothing."""
    from headstart.cli.tables.check import format_previews, format_study
    from headstart.recipe import load_recipes

    loaded = load_recipes(recipe, overrides or ())
    rescan_folders(rescan, {each.data.source for each in loaded})
    from headstart.selection.preview import preview_all

    previews = preview_all(
        loaded, device=device, cache_limit_gb=cache_limit, reporter=make_reporter()
    )
    if as_json:
        shown = [preview.to_json() for preview in previews]
        show_json(shown[0] if len(shown) == 1 else shown)
    elif details or len(previews) == 1:
        show(format_previews(previews))
    else:
        show(format_study(previews))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs or studies.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write; default: report.html, report.md, card.md."),
    ] = None,
    form: Annotated[
        ReportFormat,
        typer.Option(
            "--format", help="An HTML page, Markdown for a README, or a Hugging Face model card."
        ),
    ] = ReportFormat.html,
) -> None:
    """Write one report of finished runs: a page, Markdown, or the model card of one run."""
    from headstart.report.inputs import read_inputs
    from headstart.report.page import page_path

    path = out or Path("card.md" if form is ReportFormat.card else f"report.{form.value}")
    if form is ReportFormat.html:
        path = page_path(path)
    opened, compared = read_inputs(runs, path.parent)
    for line in [line for run in opened for line in run.left_out]:
        make_reporter().warn(line)
    if form is ReportFormat.card:
        if len(opened) != 1:
            raise HeadstartError(
                f"--format card: a model card describes one run, and {len(opened)} were given"
            )
        from headstart.report.card import write_card

        show(write_card(opened[0], path))
    elif form is ReportFormat.md:
        from headstart.report.markdown import write_markdown

        show(write_markdown(opened, path, compared))
    else:
        from headstart.report import write_report

        show(write_report(opened, path, compared))


@app.command()
def models(
    pattern: Annotated[
        str | None, typer.Argument(help="A name, or a pattern with * and ?; default: common ones.")
    ] = None,
    as_json: JSONOption = False,
) -> None:
    """List backbones, their costs and their weights."""
    from headstart.cli.tables.catalogue import format_backbones
    from headstart.models.catalogue import list_backbones

    backbones = list_backbones(pattern or "*", say=make_reporter().say)
    if as_json:
        show_json([vars(info) for info in backbones])
    else:
        show(format_backbones(backbones))


for verb in (predict, export, verify, serve):
    app.command()(verb)


@contextlib.contextmanager
def _tracking(uri: str | None, experiment: str | None = None) -> Iterator[Callable[[Run], None]]:
    """A function to call with each run that ends. Errors of tracking are raised at the end, after
    the results are printed."""
    if uri is None:
        yield lambda run: None
        return
    from headstart.tracking import create_tracker

    tracker = create_tracker(uri, experiment, make_reporter())
    yield tracker
    tracker.close()


def _holds_runs(path: str) -> bool:
    """Whether the path is a directory of runs, and not a study to carry out.

    The name of a shipped study means the study, even if a folder has the same name: ./NAME is the
    folder.
    """
    from headstart.recipe import shipped_recipes
    from headstart.rundir.run import list_runs

    folder = Path(path)
    if (folder / "manifest.json").exists():
        return True
    return path not in shipped_recipes() and bool(list_runs(folder))
