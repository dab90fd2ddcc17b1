"""Bundles that are damaged, or made by a stranger: one line, before any answer."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import BundleError
from headstart_predict import verify


def rewritten(bundle: Path, **changes: Any) -> None:
    record = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(record | changes))


def listed(bundle: Path, name: str, content: bytes) -> None:
    """Put a file into a bundle as someone would who also writes its record."""
    record = json.loads((bundle / "bundle.json").read_text())
    record["files"][name] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (bundle / name).write_bytes(content)
    (bundle / "bundle.json").write_text(json.dumps(record))


def pickled() -> bytes:
    content = io.BytesIO()
    np.savez(content, ids=np.array([{"a": 1}], dtype=object))
    return content.getvalue()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def linked(bundle: Path) -> None:
    target = bundle.parent / "elsewhere.onnx"
    shutil.move(bundle / "model.onnx", target)
    (bundle / "model.onnx").symlink_to(target)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit of the model": (lambda b: flipped(b / "model.onnx"), "SHA-256 is not"),
    "a model cut off": (
        lambda b: (b / "model.onnx").write_bytes((b / "model.onnx").read_bytes()[:-9]),
        "its size is not",
    ),
    "no model": (lambda b: (b / "model.onnx").unlink(), "missing"),
    "a model elsewhere": (linked, "not a regular file"),
    "a model that is none": (lambda b: listed(b, "model.onnx", b"\x08\x01"), "refused"),
    "no record": (lambda b: (b / "bundle.json").unlink(), "not a bundle"),
    "a record cut off": (
        lambda b: (b / "bundle.json").write_text((b / "bundle.json").read_text()[:99]),
        "damaged",
    ),
    "a record that is deep": (
        lambda b: (b / "bundle.json").write_text("[" * 200_000),
        "damaged",
    ),
    "another format": (lambda b: rewritten(b, format=99), "format 99; this version reads 1 and 2"),
    "no format": (lambda b: rewritten(b, format=None), "no format number"),
    "a path outside": (
        lambda b: rewritten(b, files={"../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}),
        "not a name",
    ),
    "one class": (lambda b: rewritten(b, class_names=["cat"]), "two or more"),
    "a side that fills the memory": (lambda b: rewritten(b, side=10**9), "side"),
    "a temperature that is none": (lambda b: rewritten(b, temperature=float("nan")), "temperature"),
    "a validation that is a text": (lambda b: rewritten(b, validation="x"), "a table is needed"),
    "a validation without images": (lambda b: rewritten(b, validation={"images": 0}), "images"),
    "a validation with too few shares": (
        lambda b: rewritten(b, validation={
            "images": 9, "mean_probability": 0.5, "unsure": 0, "classes": [1], "confidence": []
        }),
        "classes: 10 numbers",
    ),
    "a huge number": (lambda b: rewritten(b, side=10**400), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_bundle_gives_one_line_and_no_answer(
    bundle: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from headstart_predict.cli import main

    damage, reason = DAMAGES[kind]
    picture = str(bundle / "golden" / "00.png")
    damage(bundle)
    for words in ([str(bundle), picture], [str(bundle), "--verify"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        said = capsys.readouterr()
        assert (stop.value.code, said.out) == (2, "")
        assert len(said.err.splitlines()) == 1
        assert reason in said.err


def test_golden_images_that_run_code_or_answer_otherwise_are_refused(bundle: Path) -> None:
    good = (bundle / "golden.npz").read_bytes()
    listed(bundle, "golden.npz", pickled())
    with pytest.raises(BundleError, match="not an archive of plain arrays"):
        verify(bundle)
    with np.load(io.BytesIO(good)) as arrays:
        made = dict(arrays)
    content = io.BytesIO()
    np.savez(content, **{**made, "logits": made["logits"][:, ::-1].copy()})
    listed(bundle, "golden.npz", content.getvalue())
    with pytest.raises(BundleError, match="golden images are answered otherwise here, the worst"):
        verify(bundle)
