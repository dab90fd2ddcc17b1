"""ONNX Runtime Web, which answers in a browser: fetched once, from npm, by version and SHA-256."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from headstart.data.sources.download import Progress
from headstart.data.sources.npm import fetch_package
from headstart.errors import DataError
from headstart.files import cache_root, locked, remove, write_atomically

# The smallest version whose script holds WebAssembly's loader: a page need not allow scripts from
# blobs. This build has every operation on a CPU; with WebGPU and WebNN it were twice as large.
VERSION = "1.23.2"
PACKAGE, LICENCE = f"onnxruntime-web@{VERSION}", "MIT"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_SHA256 = {
    SCRIPT: "cace3b98bee45c1c40ed04e07b984fb66012acacb702e6aecd9008239bf35e99",
    WASM: "45eaee27761ad883742a8d4b8fce1538d60ce43b51adf1726fafccc59b8c1a15",
}


@dataclass(frozen=True)
class WebRuntime:
    """script: a JavaScript module. wasm: what it loads."""

    script: str
    wasm: bytes


def fetch_web_runtime(progress: Progress | None = None) -> WebRuntime:
    """From the cache, or else from npm. Raises DataError, which says what would work."""
    folder = cache_root() / "web" / PACKAGE.replace("@", "-")
    with locked(folder.with_name(f".{folder.name}.lock")):
        found = _read(folder)
        if found is None:
            try:
                _fetch(folder, progress)
            except DataError as error:
                raise DataError(
                    f"the page needs ONNX Runtime Web: {error}: repeat it where npm reaches its "
                    f"registry, or put {SCRIPT} and {WASM} of {PACKAGE} into {folder}"
                ) from error
            found = _read(folder)
    if found is None:
        raise DataError(f"{folder}: cannot be read back: check the disk")
    return WebRuntime(found[SCRIPT].decode(), found[WASM])


def _read(folder: Path) -> dict[str, bytes] | None:
    """Both files; None where one is missing or is another one."""
    try:
        files = {name: (folder / name).read_bytes() for name in _SHA256}
    except OSError:
        return None
    right = all(_is(name, content) for name, content in files.items())
    return files if right else None


def _is(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == _SHA256[name]


def _fetch(folder: Path, progress: Progress | None) -> None:
    remove(folder)
    with tempfile.TemporaryDirectory() as place:
        package = fetch_package(PACKAGE, Path(place), progress)
        try:
            with tarfile.open(package, "r:gz") as tar:
                for name in _SHA256:
                    file = tar.extractfile(f"package/dist/{name}")
                    content = file.read() if file is not None else b""
                    if not _is(name, content):
                        raise DataError(f"npm package {PACKAGE}: {name} is not the file it was")
                    write_atomically(folder / name, content)
        except (tarfile.TarError, EOFError, zlib.error, OSError, KeyError) as error:
            raise DataError(f"npm package {PACKAGE}: not as expected: {error}") from error
