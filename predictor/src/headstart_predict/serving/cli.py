"""headstart-serve: answer requests over HTTP, where neither torch nor headstart is."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from headstart_predict.engines import NAMES
from headstart_predict.errors import HeadstartError
from headstart_predict.serving.settings import HELP, TOKEN, Limits, Settings
from headstart_predict.streams import say_error, standard_streams

_NEEDED = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client")
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def main(arguments: Sequence[str] | None = None) -> None:
    with standard_streams():
        options = _parser().parse_args(arguments)
        try:
            start(
                [str(path) for path in options.bundles],
                host=options.host,
                port=options.port,
                workers=options.workers,
                threads=options.threads,
                engine=options.engine,
                token_file=options.token_file,
                origins=options.origin,
                names=options.name,
                log=options.log,
                limits=Limits.of(
                    options.max_mb,
                    options.max_images,
                    options.queue_ms,
                    options.batch_ms,
                    options.arrival_s,
                ),
            )
            code = 0
        except HeadstartError as error:
            say_error(str(error))
            code = 2
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headstart-serve", description="Answer requests with exported models over HTTP."
    )
    parser.add_argument(
        "bundles", type=Path, nargs="+", metavar="BUNDLE", help="The folder of a bundle."
    )
    usual, limits = Settings(()), Limits()

    def add(name: str, kind: type, default: object, **more: object) -> None:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=default, help=HELP[name], **more)  # type: ignore[arg-type]

    add("host", str, usual.host)
    add("port", int, usual.port)
    add("workers", int, usual.workers)
    add("threads", int, None)
    add("engine", str, usual.engine, choices=("auto", *NAMES))
    add("token_file", Path, None)
    add("origin", str, [], action="append")
    add("name", str, [], action="append")
    add("log", Path, None)
    add("max_mb", float, limits.body / 2**20)
    add("max_images", int, limits.images)
    add("queue_ms", float, 1e3 * limits.queue)
    add("batch_ms", float, 1e3 * limits.batch)
    add("arrival_s", float, limits.arrival)
    return parser


def start(
    bundles: Sequence[str],
    *,
    host: str,
    port: int,
    workers: int,
    threads: int | None,
    engine: str,
    token_file: Path | None,
    origins: Sequence[str],
    names: Sequence[str],
    log: Path | None,
    limits: Limits,
) -> None:
    """Check what the command line says, and serve. Raises HeadstartError."""
    require_extra()
    if not 0 <= port < 2**16:
        raise HeadstartError("--port: a number from 0 to 65535 is needed")
    if workers < 1 or (threads is not None and threads < 1):
        raise HeadstartError("--workers and --threads: whole numbers above zero are needed")
    if min(limits.body, limits.images, limits.arrival, limits.queue, limits.batch) <= 0:
        raise HeadstartError("limits: numbers above zero are needed")
    for origin in origins:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
            raise HeadstartError(f"--origin {origin}: write it such as https://example.org")
    from headstart_predict.serving.server import serve

    serve(
        Settings(
            bundles=tuple(bundles),
            host=host,
            port=port,
            workers=workers,
            threads=threads,
            engine=engine,
            origins=tuple(origins),
            hosts=tuple(name.lower() for name in names) or (_LOCAL if _is_local(host) else ()),
            log=None if log is None else str(log),
            limits=limits,
            token=_token(token_file),
        )
    )


def require_extra() -> None:
    """Raises HeadstartError where the extra `serve` is not installed."""
    missing = [name for name in _NEEDED if not find_spec(name)]
    if missing:
        raise HeadstartError(
            f"to serve, more packages are needed ({', '.join(missing)}): pip install "
            "'headstart-predict[serve]'"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(path: Path | None) -> str | None:
    token = os.environ.get(TOKEN)
    if path is not None:
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HeadstartError(f"{path}: the token cannot be read: {error}") from None
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable()):
        raise HeadstartError("the token: eight or more letters and digits are needed")
    return token
