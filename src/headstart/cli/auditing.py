"""headstart data audit: what is wrong with a folder of photos, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import (
    DeviceOption,
    JSONOption,
    RescanOption,
    make_reporter,
    rescan_folders,
)
from headstart_predict.streams import show, show_json

FOUND = 1  # the exit code where a result on these photos would be wrong


def data_audit(
    photos: Annotated[str, typer.Argument(help="A folder of photos, or a table that lists them.")],
    backbone: Annotated[
        str, typer.Option("--backbone", help="The network that looks at each photo, once.")
    ] = "mobilenetv2_100",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PAGE.html", help="A page to decide on what is found."),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="MANIFEST.csv",
            help="A manifest to write: path, label, split of the photos to use.",
        ),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            "--decisions",
            metavar="DECISIONS.csv",
            help="The page's decisions, to be applied to the manifest.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the manifest if it exists.")
    ] = False,
    device: DeviceOption = "auto",
    rescan: RescanOption = False,
    as_json: JSONOption = False,
) -> None:
    """Find wrong labels, duplicates, foreign and damaged photos, and shortcuts, before training.

    Exit code 1 means that a result on these photos would be wrong: a picture is in two splits or
    in two classes, or metadata tells the class. No photo is touched.
    """
    from headstart.auditing.audit import audit
    from headstart.cli.tables.audit import format_audit
    from headstart.data.sources.places import place_of

    rescan_folders(rescan, [place_of(photos)])
    found = audit(
        photos,
        backbone=backbone,
        device=device,
        out=out,
        fix=fix,
        decisions=decisions,
        overwrite=overwrite,
        reporter=make_reporter(),
    )
    if as_json:
        show_json(found.to_json())
    else:
        show(format_audit(found))
    if found.wrong:
        raise typer.Exit(FOUND)
