"""Tensors in a safetensors file that says what it is and holds a digest of itself.

A file appears whole or not at all. Damage after that is found when the tensors are read: SHA-256
takes about a second a gigabyte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import RunError
from headstart.files import partial_folder, publish

if TYPE_CHECKING:
    from torch import Tensor

_HEADER, _DIGEST = "headstart", "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors of any device, and a header of plain JSON values.

    Equal content gives equal bytes. Raises OSError where the disk does not take them.
    """
    from safetensors.torch import save_file

    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One value: safetensors orders several of them at random.
    text = json.dumps({**header, _DIGEST: _digest(own, header)}, sort_keys=True)
    # safetensors writes beside its target, under a name that nobody would know to remove.
    with partial_folder(path) as folder:
        made = folder / path.name
        made.touch()
        mode = made.stat().st_mode  # by the umask; safetensors would keep the file from others
        with _os_errors(path):
            save_file(own, made, metadata={_HEADER: text})
        made.chmod(mode)
        publish(made, path)


def read_header(path: Path) -> dict[str, Any] | None:
    """The header that `write_tensors` wrote, without a look at the tensors.

    None where the file is another's, damaged or absent.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():  # to open a named pipe would wait for ever
            return None
        with safe_open(path, framework="np") as file:
            return _parse(file.metadata())
    except (OSError, SafetensorError):
        return None


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors, on the CPU, that `write_tensors` wrote.

    Raises FileNotFoundError, and RunError where the file is another's or its content has changed.
    """
    header, tensors = _read(path)
    if header is None:
        raise RunError(f"{path}: not a file that headstart wrote")
    if header.pop(_DIGEST) != _digest(tensors, header):
        raise RunError(f"{path}: damaged: its content is not what was written")
    return header, tensors


def intact(path: Path) -> bool:
    """Whether a file's content is what `write_tensors` wrote.

    Read once in a process while size and time of the file stay.
    """
    status = path.stat()
    return _intact(path, status.st_size, status.st_mtime_ns)


@cache
def _intact(path: Path, size: int, mtime_ns: int) -> bool:
    try:
        read_tensors(path)
    except RunError:
        return False
    return True


def _read(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _parse(file.metadata()), tensors
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: damaged: {str(error).splitlines()[0][:200]}") from error


def _parse(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, RecursionError):
        header = json.loads((metadata or {}).get(_HEADER, "null"))
        if isinstance(header, dict) and isinstance(header.get(_DIGEST), str):
            return header
    return None


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    import torch

    sums = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sums.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sums.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sums.hexdigest()


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    """safetensors reports a full disk as an error of its own, with the system's number in words."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error).splitlines()[0], str(path)) from error
