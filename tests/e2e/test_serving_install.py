"""What a stranger gets: the wheel of the predictor with its extra, outside this tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from headstart_predict.bundle import open_bundle, read_golden
from tests.trials import WHOLE

ROOT = Path(__file__).resolve().parents[2]
SERVES = "from headstart_predict.serving.cli import main; main()"
FOREIGN = ("torch", "timm", "headstart", "openvino", "scipy", "sklearn", "pandas")


def test_the_service_needs_neither_torch_nor_headstart(published: Path, tmp_path: Path) -> None:
    """Without both, as in a process that cannot import them."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({FOREIGN})); {SERVES}"
    process = subprocess.Popen(
        [sys.executable, "-c", blocked, str(published), "--port", "0", "--engine", "onnxruntime"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    )
    assert_answers(process, published)


@pytest.mark.skipif(not WHOLE, reason="installs packages: set HEADSTART_TRIALS=1")
def test_a_wheel_is_all_that_a_service_needs(published: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv", path=f"{os.environ['PATH']}:{ROOT / '.tools' / 'uv' / 'bin'}")
    assert uv is not None
    environment = tmp_path / "environment"
    for command in (
        ("build", "--wheel", "--out-dir", str(tmp_path), str(ROOT / "predictor")),
        ("venv", "--python", sys.executable, str(environment)),
    ):
        subprocess.run([uv, "--quiet", *command], check=True)
    [wheel] = tmp_path.glob("*.whl")
    python = environment / "bin" / "python"
    into = ("pip", "install", "--quiet", "--python", str(python), f"{wheel}[serve]")
    subprocess.run([uv, *into], check=True)
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(environment / "bin" / "headstart-serve"), str(published), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env=outside,
    )
    megabytes = assert_answers(process, published)
    print(f"first answer after {time.perf_counter() - began:.1f} s, {megabytes:.0f} MB resident")
    assert megabytes < 400


def assert_answers(process: subprocess.Popen[str], bundle: Path) -> float:
    """The page and an answer over HTTP; then a stop. Returns MB in memory."""
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "answering at" in line
        port = int(line.split("http://")[1].split()[0].rpartition(":")[2])
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        opened = open_bundle(bundle)
        picture = opened.read(read_golden(opened).files[0])
        for path, body in (("/v1/predict", picture), ("/", None), ("/static/index.html", None)):
            connection.request("POST" if body else "GET", path, body)
            reply = connection.getresponse()
            assert reply.status == 200
            assert reply.read()
        connection.close()
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()
