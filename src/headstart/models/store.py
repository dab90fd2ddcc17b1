"""The weights store: safetensors files in the cache folder, with their identity in the header.

A file is written atomically. Its header holds its identity and its preprocessing, so no other file
is needed. Raise FORMAT when the meaning of the header or the mapping of parameters changes: files
of another format are fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import RunError, WeightsError, explain_os_error
from headstart.files import cache_root, parse_json, to_json
from headstart.models import tensor_files
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.models.tensor_files import write_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file in the store."""

    format: int
    identity: WeightsIdentity
    preprocess: Preprocess


@dataclass(frozen=True)
class StoredWeights:
    """One file of the store, for listings."""

    path: Path
    size_bytes: int
    identity: WeightsIdentity


def store_folder() -> Path:
    return cache_root() / "weights"


def store_state(
    identity: WeightsIdentity, preprocess: Preprocess, state: dict[str, Tensor]
) -> Path:
    """Write parameters with their header, atomically. Raises WeightsError on errors of the disk."""
    path = _path(identity)
    with disk_errors():
        write_tensors(path, state, to_json(_header(identity, preprocess)))
    return path


def find_stored(identity: WeightsIdentity, preprocess: Preprocess) -> Path | None:
    """The stored file with exactly this identity and preprocessing, or None."""
    path = _path(identity)
    return path if read_header(path) == _header(identity, preprocess) else None


def list_stored() -> list[StoredWeights]:
    """Every readable file of the store, by name. Does not hash them: sha256 is None."""
    listed = []
    for path in sorted(store_folder().glob("*.safetensors")):
        if (header := read_header(path)) is not None:
            listed.append(StoredWeights(path, path.stat().st_size, header.identity))
    return listed


def read_header(path: Path) -> Header | None:
    """The header of a stored file; None for another file, a damaged one, or none."""
    try:
        found = tensor_files.read_header(path)
        header = parse_json(json.dumps(found), Header, str(path))
    except RunError:
        return None
    return header if header.format == FORMAT else None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, remembered within the process until the file changes."""
    with disk_errors():
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_torch_state(content: bytes, where: str) -> dict[str, Tensor]:
    """The state dict in a .pth file, read without running any code in it."""
    import torch

    try:
        with warnings.catch_warnings():  # torch warns of kinds of tensors that are refused below
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # foreign bytes raise many kinds; torch's advice is to load unsafely
        raise WeightsError(
            f"{where}: damaged, or not a torch file of plain tensors: save the state dict alone"
        ) from error
    for wrapper in ("state_dict", "model"):  # how training scripts wrap the parameters
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded:
        raise WeightsError(f"{where}: holds no state dict")
    tensors = {
        name.removeprefix("module."): value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor) and _is_plain(value)
    }
    if len(tensors) != len(loaded):
        raise WeightsError(f"{where}: holds more than named, plain tensors")
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has its values in memory, one by one."""
    import torch

    return tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn an operating-system error about a file into a WeightsError of one line."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        line = explain_os_error(error) or said.splitlines()[0]
        raise WeightsError(f"weights: {line}") from error
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise WeightsError(f"weights: {str(error).splitlines()[0]}") from error


def _path(identity: WeightsIdentity) -> Path:
    stem = f"{identity.provider}-{identity.name}-{identity.tag}"
    return store_folder() / f"{stem}.safetensors"


def _header(identity: WeightsIdentity, preprocess: Preprocess) -> Header:
    """A file cannot hold its own hash."""
    return Header(FORMAT, replace(identity, sha256=None), preprocess)
