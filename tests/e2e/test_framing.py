"""Framing on every way that a picture takes: the run, torch, and the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import headstart as library
from headstart.deployment.export import export
from headstart.deployment.predictor import load_predictor
from headstart.errors import BundleError
from headstart.recipe import load_recipe
from headstart.report.card import render_card
from headstart_predict import load, open_bundle, verify
from headstart_predict.decode import decode_image
from headstart_predict.framing import PAD, SQUASH
from headstart_predict.shapes import softmax
from tests.recipes import recipe_text, write_recipe
from tests.unit.test_framing import plant


def test_a_picture_has_the_same_answer_on_every_way(tmp_path: Path, cache: Path) -> None:
    photos = plant(tmp_path / "photos", each=12)
    data = {"source": f"folder:{photos}", "framing": PAD}
    text = recipe_text("framed", train=None, test=None, data=data)
    run = library.run(load_recipe(write_recipe(tmp_path, text)), out=tmp_path / "run")
    assert not [line for line in run.warnings if "centre square" in line]
    tested = run.predictions("test")
    paths = [photos / name for name in tested.ids]
    expected = tested.tempered(run.metrics.temperature).probabilities
    bundle = export(run).path
    for predictor in (load_predictor(run), load(bundle)):
        for answer, row in zip(predictor.predict(paths), expected, strict=True):
            found = [answer.probabilities[name] for name in run.class_names]
            assert found == pytest.approx(row, abs=1e-5)
    assert open_bundle(bundle).framing == PAD
    assert verify(bundle).images == len(paths)
    assert "that is not square is padded" in render_card(run)
    assert "<dt>Framing</dt><dd>pad<" in (run.path / "report" / "report.html").read_text()
    record = json.loads((bundle / "bundle.json").read_text())
    assert (record["format"], record.pop("framing")) == (2, PAD)
    squashing = shutil.copytree(bundle, tmp_path / "squashing")
    (squashing / "bundle.json").write_text(json.dumps(record | {"framing": SQUASH}))
    predictor = load(squashing)
    logits = predictor.logits(np.stack([decode_image(path, 32, SQUASH) for path in paths]))
    for answer, row in zip(predictor.predict(paths), logits, strict=True):
        expected_of = softmax(row / predictor.temperature)
        found = [answer.probabilities[name] for name in run.class_names]
        assert found == pytest.approx(expected_of, abs=1e-6)
    # A bundle of before there was a choice crops.
    older = shutil.copytree(bundle, tmp_path / "older")
    (older / "bundle.json").write_text(json.dumps(record | {"format": 1}))
    assert open_bundle(older).framing == "crop"
    cropped = [answer.probability for answer in load(older).predict(paths)]
    assert not np.allclose(cropped, expected.max(axis=1), atol=1e-3)
    for wrong in (record, record | {"framing": "letterbox"}):
        (older / "bundle.json").write_text(json.dumps(wrong))
        with pytest.raises(BundleError, match="framing"):
            open_bundle(older)
