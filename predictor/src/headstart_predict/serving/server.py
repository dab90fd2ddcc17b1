"""Starts the service: one process, or several that share its address."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import Multiprocess

from headstart_predict.bundle import open_bundle
from headstart_predict.errors import HeadstartError
from headstart_predict.limits import VARIABLE as PIXELS_VARIABLE
from headstart_predict.limits import max_pixels
from headstart_predict.serving import connections, gate
from headstart_predict.serving.metrics import SEVERAL
from headstart_predict.serving.settings import MAX_PIXELS, Settings
from headstart_predict.streams import say_error, show

_APP = "headstart_predict.serving.server:application"
_FAILED = 3  # uvicorn's status of a worker that cannot start
_FILES = 65_536  # connections and files that may be open, where the system allows it
_BACKLOG = 2048


def serve(settings: Settings) -> None:
    """Answer requests until SIGTERM or SIGINT, and then those that have begun.

    Raises HeadstartError where a bundle, the log or the address cannot be used.
    """
    os.environ.setdefault(PIXELS_VARIABLE, MAX_PIXELS)
    max_pixels()  # a wrong value is said now
    names = _names(settings)
    with (
        _listening(settings.host, settings.port) as bound,
        tempfile.TemporaryDirectory(prefix="headstart-serve-") as shared,
    ):
        if settings.workers > 1:
            os.environ[SEVERAL] = shared
        settings.to_environment()
        address = f"http://{_shown(bound)}"

        def ready() -> None:
            show(f"{', '.join(names)}: answering at {address} (stop with Ctrl-C)")
            sys.stdout.flush()

        if settings.workers == 1:
            _run_here(settings, bound, ready)
        else:
            ready()
            Multiprocess(_configured(_APP, settings), sockets=[bound]).run()


def _names(settings: Settings) -> list[str]:
    """Of the models; no two may have the same."""
    found: dict[str, str] = {}
    for path in settings.bundles:
        name = open_bundle(path).name
        if name in found:
            raise HeadstartError(
                f"{path}: a second model that is called {name}: export one of them from a run with "
                "another name"
            )
        found[name] = path
    return list(found)


def _run_here(settings: Settings, bound: socket.socket, ready: Callable[[], None]) -> None:
    _prepare(settings)
    from headstart_predict.serving.app import build

    server = uvicorn.Server(_configured(build(settings), settings))
    # uvicorn raises the signal again when all is answered: then it has no effect.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    ready()
    server.run(sockets=[bound])


def application() -> gate.Gate:
    """What a worker process runs."""
    settings = Settings.from_environment()
    _prepare(settings)
    from headstart_predict.serving.app import build  # its metrics need the folder of the workers

    try:
        return build(settings)
    except HeadstartError as error:
        say_error(str(error))
        sys.exit(_FAILED)


def _prepare(settings: Settings) -> None:
    """What each process does before it loads a model."""
    connections.limits = settings.limits
    connections.most = _allow_files() - 200
    handler = logging.StreamHandler()
    handler.setFormatter(gate.AsJSON())
    for name in (gate.log.name, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def _configured(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI application, or its name
        factory=isinstance(app, str),
        workers=settings.workers,
        http=connections.Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=int(settings.limits.idle),
        timeout_worker_healthcheck=30,
        backlog=_BACKLOG,
    )


def _allow_files() -> int:
    """Raise the limit on open files, as far as it may be. Returns it."""
    try:
        import resource
    except ImportError:  # Windows
        return 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most, soft)


def _listening(host: str, port: int) -> socket.socket:
    """Raises HeadstartError where the address is in use, or no address of this machine."""
    try:
        [family, kind, protocol, _, address] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise HeadstartError(
            f"{host}, port {port}: cannot listen there: {reason}: choose others with --host and "
            "--port"
        ) from error
    bound.set_inheritable(True)
    return bound


def _shown(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
