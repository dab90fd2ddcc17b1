"""The OpenAPI document of the service holds: schemathesis makes requests from it, good and bad."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tests
from tests.serving import served
from tests.trials import WHOLE


def test_requests_made_from_the_document_are_answered_as_it_says(
    published: Path, tmp_path: Path
) -> None:
    log = tmp_path / "decisions.db"
    with served(tmp_path, published, log=log) as server:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                *("run", f"{server.address}/openapi.json", "--checks", "all", "--seed", "1"),
                *("--max-examples", "500" if WHOLE else "15", "--no-color"),
                *("--phases", "examples,coverage,fuzzing", "--workers", "2"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.real_pictures",
                "PYTHONPATH": str(Path(tests.__file__).parents[1]),
            },
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:]
        assert "errors" not in server.log.read_text()
