"""headstart-predict: classify pictures with a bundle, where neither torch nor headstart is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from headstart_predict.answers import Answer, PictureClassifier, csv_lines, format_answers
from headstart_predict.engines import NAMES
from headstart_predict.errors import DataError, HeadstartError, explain_os_error
from headstart_predict.plain import visible
from headstart_predict.shapes import ManyLabels
from headstart_predict.streams import (
    finish,
    say_error,
    say_errors,
    say_warning,
    show,
    show_json,
    standard_streams,
)


def main(arguments: Sequence[str] | None = None) -> None:
    with standard_streams():
        try:
            code = _run(_parser().parse_args(arguments))
            finish()
        except HeadstartError as error:
            say_error(str(error))
            code = 2
        except BrokenPipeError:
            raise
        except OSError as error:
            if (line := explain_os_error(error)) is None:
                raise
            say_error(line)
            code = 2
        except KeyboardInterrupt:
            code = 130
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headstart-predict", description="Classify pictures with an exported model."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="The folder of a bundle.")
    parser.add_argument(
        "images", type=Path, nargs="*", metavar="IMAGE", help="Images, or folders of images."
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="Print JSON.")
    form.add_argument("--csv", action="store_true", help="Print CSV with every class.")
    form.add_argument(
        "--verify",
        action="store_true",
        help="Check every file of the bundle, and its answers for its own images.",
    )
    parser.add_argument(
        "--engine", default="auto", choices=("auto", *NAMES), help="What runs the model."
    )
    parser.add_argument(
        "--threshold",
        help="Of two classes: the least probability of the positive one, or its name.",
    )
    parser.add_argument("--threads", type=int, help="Cores to use; all by default.")
    return parser


def _run(options: argparse.Namespace) -> int:
    from headstart_predict.predictor import load  # numpy: not needed for --help

    if options.threads is not None and options.threads < 1:
        raise HeadstartError("--threads: a whole number above zero is needed")
    if options.verify:
        print_verified(options.bundle, options.engine)
        return 0
    if not options.images:
        raise HeadstartError("give images, or folders of images, after the bundle")
    predictor = load(options.bundle, engine=options.engine, threads=options.threads)
    if options.threshold is not None:
        answer_from(predictor, options.threshold)
    unreadable: list[DataError] = []
    answers = predictor.stream(options.images, on_unreadable=unreadable.append, on_dark=say_warning)
    return print_answers(answers, predictor, unreadable, as_json=options.json, as_csv=options.csv)


def answer_from(predictor: PictureClassifier, threshold: str) -> None:
    """What --threshold says: a number, or the name of one."""
    try:
        predictor.answer_from(threshold)
    except HeadstartError as error:
        raise HeadstartError(f"--threshold: {error}") from None


def print_verified(bundle: Path, engine: str = "auto") -> None:
    """Verify a bundle, and say so."""
    from headstart_predict.predictor import verify

    found = verify(bundle, engine=engine)
    show(
        f"{bundle}: whole, and it answers as the run did: {found.images} images, probabilities "
        f"within {found.largest:.1e}"
    )


def print_answers(
    answers: Iterable[Answer],
    predictor: PictureClassifier,
    unreadable: list[DataError],
    *,
    as_json: bool,
    as_csv: bool,
) -> int:
    """Print answers in one of three forms, as they come where the form allows it; then name what
    could not be read. Returns the exit status."""
    counted = _counting(answers)
    if as_csv:
        many = isinstance(predictor.shape, ManyLabels)
        for line in csv_lines(counted, predictor.class_names, many=many):
            print(visible(line), end="")
    elif as_json:
        show_json([answer.to_json() for answer in counted])
    elif rows := list(counted):
        show(format_answers(rows))
    if unreadable:
        say_errors(unreadable, [str(error.args[0]) for error in unreadable])
        return 2
    return 0


def _counting(answers: Iterable[Answer]) -> Iterator[Answer]:
    """The answers, counted on the terminal where people can see it."""
    watched = sys.stderr.isatty() and not sys.stdout.isatty()
    number = 0
    for number, answer in enumerate(answers, start=1):
        yield answer
        if watched and number % 50 == 0:
            print(f"\r{number:,} images", end="", file=sys.stderr, flush=True)
    if watched and number >= 50:
        print(f"\r{number:,} images", file=sys.stderr)
