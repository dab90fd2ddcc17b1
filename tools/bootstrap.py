"""Set up .venv from the hashed requirements with uv, starting from a bare python3.

uv is taken from the PATH, or put into .tools by whatever this Python offers: its own venv, or pip
with a target folder, which also works where pip is externally managed. Standard library only.

    python3 tools/bootstrap.py          create or update .venv
    python3 tools/bootstrap.py --wheels build both packages into dist/
    python3 tools/bootstrap.py --lock   pin the dependencies again, with hashes, without addresses
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools"
WITH_OTHER_VERSIONS = ("requirements-autogluon",)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - any python3 may start this
        sys.exit(f"python3 is {sys.version.split()[0]}: Headstart needs 3.11 or newer")
    uv = find_uv()
    if "--lock" in sys.argv:
        lock(uv)
        return
    if "--wheels" in sys.argv:
        for folder in (ROOT, ROOT / "predictor"):
            call(uv, "build", "--wheel", "--quiet", "--out-dir", str(ROOT / "dist"), str(folder))
        return
    if not (ROOT / ".venv" / "bin" / "python").exists():
        call(uv, "venv", "--quiet", "--python", sys.executable, str(ROOT / ".venv"))
    for name in ("requirements.txt", "requirements-dev.txt"):
        install(uv, "--require-hashes", "--requirement", str(ROOT / name))
    install(uv, "--no-deps", "--editable", str(ROOT), "--editable", str(ROOT / "predictor"))


def find_uv() -> list[str]:
    if found := shutil.which("uv"):
        return [found]
    environment = TOOLS / "uv"
    binary = environment / "bin" / "uv"
    if not binary.exists():
        in_venv = [
            [sys.executable, "-P", "-m", "venv", str(environment)],
            [str(environment / "bin" / "python"), "-P", "-m", "pip", "install", "-q", "uv"],
        ]
        with_target = [
            [sys.executable, "-P", "-m", "pip", "install", "-q", "--target", str(environment), "uv"]
        ]
        if not any(all(succeeds(c) for c in commands) for commands in (in_venv, with_target)):
            sys.exit(
                "uv could not be installed: this python3 has neither venv nor pip, or no package "
                "index can be reached (on Debian: apt-get install python3-venv; or install uv)"
            )
    return [str(binary)]


def install(uv: list[str], *arguments: str) -> None:
    python = str(ROOT / ".venv" / "bin" / "python")
    call(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *arguments)


def lock(uv: list[str]) -> None:
    common = ["--universal", "--generate-hashes", "--quiet", "--no-emit-index-url", "--no-header"]
    common += ["--no-emit-package", "headstart-predict"]  # it is in this repository
    runtime, development = ROOT / "requirements.txt", ROOT / "requirements-dev.txt"
    upgrade = ["--upgrade"] if "--upgrade" in sys.argv else []
    limits = ("-c", "tools/constraints.txt")
    call(uv, "pip", "compile", "pyproject.toml", *limits, *common, *upgrade, "-o", str(runtime))
    call(
        uv,
        *("pip", "compile", "--group", "dev", "-c", str(runtime)),
        *(*common, *upgrade, "-o", str(development)),
    )
    # The predictor alone, as its container has it, with the service: the same versions.
    alone = ("--extra", "serve", "predictor/pyproject.toml", "-o", "predictor/requirements.txt")
    call(uv, "pip", "compile", *alone, "-c", str(runtime), *common, *upgrade)
    # What we are measured against: the same versions of what we share with it, where it takes them.
    for peer in sorted((ROOT / "bench" / "peers").glob("requirements-*.in")):
        shared = () if peer.stem in WITH_OTHER_VERSIONS else ("-c", str(runtime))
        paths = (str(peer), *shared, "-o", str(peer.with_suffix(".txt")))
        call(uv, "pip", "compile", *paths, *common, *upgrade)


def call(uv: list[str], *arguments: str) -> None:
    environment = {**os.environ, "UV_LINK_MODE": os.environ.get("UV_LINK_MODE", "copy")}
    outcome = subprocess.run([*uv, *arguments], cwd=ROOT, env=environment, check=False)
    if outcome.returncode:
        sys.exit(outcome.returncode)


def succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    main()
