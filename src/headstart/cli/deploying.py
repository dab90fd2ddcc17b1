"""The verbs about a finished model: predict, export, verify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import DeviceOption, JSONOption, make_reporter
from headstart.errors import DataError, HeadstartError
from headstart_predict.serving.settings import HELP, Limits, Settings
from headstart_predict.streams import show, show_json

_SERVICE = Settings(())  # what is usual


class ExportFormat(StrEnum):
    """The formats of the export verb."""

    bundle = "bundle"
    html = "html"
    openvino = "openvino"
    torch = "torch"


class ExportPrecision(StrEnum):
    """The precisions of the export verb."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Engine(StrEnum):
    """What runs an exported model."""

    auto = "auto"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


def predict(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run's directory, or a bundle.")
    ],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    as_json: JSONOption = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="Print CSV with every class. A name that begins with = + - @ or a tab gets an "
            "apostrophe before it, so that no spreadsheet computes it.",
        ),
    ] = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            help="Of two classes: the least probability of the positive one, or the name of a "
            "threshold in the bundle: even, balanced, f1, recall95.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Classify images with a finished run's model, or an exported one."""
    from headstart.deployment.finished import finished, is_bundle
    from headstart.deployment.quickest import open_predictor
    from headstart_predict.cli import answer_from, print_answers
    from headstart_predict.walking import find_images

    if as_json and as_csv:
        raise HeadstartError("--json and --csv: choose one")
    if not is_bundle(source):
        finished(source)
    paths = find_images(images)  # before a model is loaded: a path may not exist
    predictor = open_predictor(source, device=device, images=len(paths), reporter=make_reporter())
    if threshold is not None:
        answer_from(predictor, threshold)
    unreadable: list[DataError] = []
    answers = predictor.stream(paths, on_unreadable=unreadable.append, on_dark=make_reporter().warn)
    code = print_answers(answers, predictor, unreadable, as_json=as_json, as_csv=as_csv)
    if code:
        raise typer.Exit(code)


def export(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's directory.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="What to write; default: the folder RUN/export, or RUN/classifier.html."
        ),
    ] = None,
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="A folder for headstart-predict; one page that classifies in a browser; or a "
            "folder that also holds OpenVINO's files, or a program of torch.export.",
        ),
    ] = ExportFormat.bundle,
    precision: Annotated[
        ExportPrecision,
        typer.Option(
            "--precision",
            help="bfloat16 has half the size, int8 about a third; each is faster where the CPU has "
            "instructions for it.",
        ),
    ] = ExportPrecision.float32,
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            min=0.0,
            help="Points of accuracy that bfloat16 or int8 may lose; more is refused.",
        ),
    ] = 1.0,
    as_json: JSONOption = False,
) -> None:
    """Write the model as it leaves the house: it answers without torch, as the run does."""
    from headstart.deployment.export import export
    from headstart.deployment.reduced import describe_reduced
    from headstart.files import to_json

    done = export(
        run_path,
        out=out,
        form=form.value,
        precision=precision.value,
        max_drop=max_drop,
        reporter=make_reporter(),
    )
    if as_json:
        show_json({**to_json(done), "path": str(done.path)})
        return
    show(
        f"{done.path}: {done.megabytes:.1f} MB; {done.parity.images:,} images are answered as by "
        f"the run, probabilities within {done.parity.largest:.1e}"
    )
    if done.reduced:
        show(describe_reduced(done.reduced))


def serve(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Finished runs' directories, or bundles."),
    ],
    host: Annotated[str, typer.Option(help=HELP["host"])] = _SERVICE.host,
    port: Annotated[int, typer.Option(help=HELP["port"])] = _SERVICE.port,
    workers: Annotated[int, typer.Option(help=HELP["workers"])] = _SERVICE.workers,
    threads: Annotated[int | None, typer.Option(help=HELP["threads"])] = None,
    engine: Annotated[Engine, typer.Option(help=HELP["engine"])] = Engine.auto,
    token_file: Annotated[Path | None, typer.Option(help=HELP["token_file"])] = None,
    origin: Annotated[list[str] | None, typer.Option(help=HELP["origin"])] = None,
    name: Annotated[list[str] | None, typer.Option(help=HELP["name"])] = None,
    log: Annotated[Path | None, typer.Option(help=HELP["log"])] = None,
    max_mb: Annotated[float, typer.Option(help=HELP["max_mb"])] = _SERVICE.limits.body / 2**20,
    max_images: Annotated[int, typer.Option(help=HELP["max_images"])] = _SERVICE.limits.images,
    queue_ms: Annotated[float, typer.Option(help=HELP["queue_ms"])] = 1e3 * _SERVICE.limits.queue,
    batch_ms: Annotated[float, typer.Option(help=HELP["batch_ms"])] = 1e3 * _SERVICE.limits.batch,
    arrival_s: Annotated[float, typer.Option(help=HELP["arrival_s"])] = _SERVICE.limits.arrival,
) -> None:
    """Answer requests over HTTP, and serve a page that asks; a run is exported first."""
    from headstart.deployment.quickest import bundle_of
    from headstart_predict.serving.cli import require_extra, start

    require_extra()  # before anything is exported
    start(
        [str(bundle_of(source, make_reporter())) for source in sources],
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        engine=engine.value,
        token_file=token_file,
        origins=origin or (),
        names=name or (),
        log=log,
        limits=Limits.of(max_mb, max_images, queue_ms, batch_ms, arrival_s),
    )


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of a bundle.")],
) -> None:
    """Check every file of a bundle, and that it answers as the run did."""
    from headstart_predict.cli import print_verified

    print_verified(bundle)
