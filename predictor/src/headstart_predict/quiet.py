"""Pillow without warnings of its own: what matters about a picture is said by this package."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

from headstart_predict.limits import PIXELS, max_pixels

_lock = threading.Lock()
_inside = 0  # threads that decode at this moment
_held = contextlib.ExitStack()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block Pillow's modules warn of nothing, in any thread.

    The filters of warnings belong to the process: the first thread that enters sets them, and the
    last one that leaves restores them.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _silence()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _held.close()


def _silence() -> None:
    _held.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module=r"PIL\b")
    if max_pixels() > PIXELS:  # then Pillow's own limit must not stand in the way
        _held.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
