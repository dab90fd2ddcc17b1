"""The verb that takes a folder of photos to a model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import (
    CacheLimitOption,
    DeviceOption,
    GroupOption,
    JSONOption,
    LabelFromOption,
    Labels,
    LabelsOption,
    MaxMbOption,
    MaxMsOption,
    RescanOption,
    make_reporter,
    rescan_folders,
)
from headstart_predict.streams import show, show_json


class Preset(StrEnum):
    """How much fit tries."""

    auto = "auto"
    quick = "quick"
    best = "best"


def fit(
    photos: Annotated[
        str,
        typer.Argument(
            metavar="PHOTOS", help="A folder, a table (CSV, TSV, Parquet), or a data set."
        ),
    ],
    minutes: Annotated[
        float,
        typer.Option("--minutes", min=0.1, max=100_000, help="Time for everything."),
    ] = 10.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory to write; default: runs/NAME-FINGERPRINT."),
    ] = None,
    preset: Annotated[
        Preset,
        typer.Option(
            "--preset", help="quick trains heads alone; best fine-tunes more backbones than auto."
        ),
    ] = Preset.auto,
    label_from: LabelFromOption = None,
    labels: LabelsOption = Labels.one,
    group: GroupOption = None,
    max_ms: MaxMsOption = None,
    max_mb: MaxMbOption = None,
    device: DeviceOption = "auto",
    cache_limit: CacheLimitOption = None,
    rescan: RescanOption = False,
    as_json: JSONOption = False,
) -> None:
    """Choose, adapt, test and export the best backbone for a folder of photos."""
    from headstart import photos as module
    from headstart.cli.tables.fit import fit_to_json, format_fit

    rescan_folders(rescan, [module.source_of(photos)])
    fitted = module.fit(
        photos,
        minutes=minutes,
        out=out,
        preset=preset.value,
        label_from=label_from,
        labels=labels.value,
        group=group,
        max_ms=max_ms,
        max_mb=max_mb,
        device=device,
        cache_limit_gb=cache_limit,
        reporter=make_reporter(),
    )
    if as_json:
        show_json(fit_to_json(fitted))
    else:
        show(format_fit(fitted))
