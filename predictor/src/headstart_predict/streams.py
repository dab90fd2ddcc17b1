"""The standard streams: results on stdout, errors on stderr, whatever is at their other end."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headstart_predict.plain import one_line, shorten_middle, visible

LONGEST_ERROR = 800  # characters


def show(text: object, end: str = "\n") -> None:
    """Print a result; hidden characters of names as escapes."""
    print(visible(str(text)), end=end)


def show_json(value: Any) -> None:
    """Print a result as JSON; null for a number that is infinite or none."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def say_error(line: str) -> None:
    """One line on stderr, unless nobody can read it there."""
    with contextlib.suppress(OSError):
        shown = shorten_middle(one_line(line), LONGEST_ERROR)
        print(f"error: {shown}", file=sys.stderr, flush=True)


def say_warning(line: str) -> None:
    """One line on stderr about something that the user may not want."""
    with contextlib.suppress(OSError):
        print(f"warning: {visible(line)}", file=sys.stderr, flush=True)


def say_errors(errors: Sequence[Exception], named: Sequence[str]) -> None:
    """Errors in two lines at most: the first as it is, of several others their names."""
    for error in errors[:2] if len(errors) < 3 else errors[:1]:
        say_error(str(error))
    if len(errors) > 2:
        say_error(f"{len(errors) - 1:,} others, too: {', '.join(named[1:])}")


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Within the block the three streams are open, and take every letter.

    In place of a closed one stands the null device: the next file would take its number, and
    libraries would write their messages into it. A reader that has gone away, such as `head`, ends
    the program without a word.
    """
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        _discard()
        sys.exit(1)  # like typer
    finally:
        with contextlib.suppress(OSError):
            finish()


def finish() -> None:
    """Write what is left of the results. Raises OSError where it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard()  # else Python would try again as it ends, and say so
        raise


def _open_closed() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    # Python gives None for a stream that was closed when it began.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _discard() -> None:
    """Have the null device take what is left."""
    with contextlib.suppress(OSError, ValueError):  # in tests stdout may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
