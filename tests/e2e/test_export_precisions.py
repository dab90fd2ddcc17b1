"""Bundles of fewer digits: they say what that costs and gains, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

import headstart as library
from headstart.data import load_data
from headstart.deployment import bfloat16, int8
from headstart.deployment import export as exporting
from headstart.deployment.held_out import HeldOut
from headstart.errors import BundleError, RunError
from headstart.rundir.run import Run
from headstart_predict import choosing, engines, load, open_bundle, verify
from tests.conftest import Outcome


@pytest.fixture(scope="module")
def half(
    fine_tuned: Run, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> exporting.Exported:
    """The run in bfloat16; read only."""
    out = tmp_path_factory.mktemp("half") / "bundle"
    content = (published / "model.onnx").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "to_onnx", lambda deployed, side: content)
        return exporting.export(
            fine_tuned, out=out, precision="bfloat16", max_drop=100, reporter=library.Reporter()
        )


def tensors(path: Path) -> dict[str, onnx.TensorProto]:
    return {each.name: each for each in onnx.load(path / "model.onnx").graph.initializer}


def test_bfloat16_stores_rounded_weights_and_whole_pixels(
    half: exporting.Exported, published: Path
) -> None:
    before, after = tensors(published), tensors(half.path)
    rounded = [name for name in after if name.endswith("_bfloat16")]
    assert rounded
    for name in rounded:
        whole = numpy_helper.to_array(before.pop(name.removesuffix("_bfloat16")))
        expected = torch.from_numpy(whole.copy()).bfloat16().view(torch.int16).numpy()
        assert after[name].data_type == TensorProto.BFLOAT16
        np.testing.assert_array_equal(
            np.frombuffer(after[name].raw_data, "<i2").reshape(whole.shape), expected
        )
    # What is left is small, or the resize, which pixels go through.
    left = {tuple(each.dims) for each in before.values() if np.prod(each.dims) >= 1024}
    assert {(48, 32), (32, 48)} < left
    assert {name: each.raw_data for name, each in before.items()} == {
        name: after[name].raw_data for name in before
    }


def test_no_weight_for_pixels_is_rounded_however_large(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "SMALLEST", 1)
    made = onnx.load_from_string(bfloat16.to_bfloat16((published / "model.onnx").read_bytes()))
    shapes = [tuple(t.dims) for t in made.graph.initializer if t.data_type == TensorProto.BFLOAT16]
    assert len(shapes) > 20
    assert not {(48, 32), (32, 48)} & set(shapes)


def test_bfloat16_says_what_it_costs(half: exporting.Exported, fine_tuned: Run) -> None:
    reduced = half.reduced
    assert reduced is not None
    assert reduced.images == 60
    assert reduced.low <= reduced.change <= reduced.high
    assert reduced.in_float is None
    opened = open_bundle(half.path)
    assert (opened.precision, opened.tolerance) == ("bfloat16", bfloat16.TOLERANCE)
    assert verify(opened).images == 32
    card = (half.path / "README.md").read_text()
    assert "In bfloat16 accuracy changes by" in card
    assert f"{reduced.speed.cpu} ({reduced.speed.threads} threads)" in card
    record = json.loads((half.path / "bundle.json").read_text())["reduced"]
    assert record["speed"]["times"] == reduced.speed.times > 0
    assert record["megabytes"] < record["megabytes_float32"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_bfloat16_answers_as_the_run_within_its_digits(
    half: exporting.Exported, published: Path, fine_tuned: Run, engine: str
) -> None:
    pixels = load_data(fine_tuned.recipe.data).test.read(np.arange(20))
    whole = load(published, engine=engine).logits(pixels)
    found = load(half.path, engine=engine).logits(pixels)
    assert 0 < np.abs(found - whole).max() < 0.05 * np.abs(whole).max()


@pytest.mark.usefixtures("exported_once")
def test_int8_says_what_it_costs_or_is_refused(
    fine_tuned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    ask: dict[str, Any] = {"precision": "int8", "reporter": library.Reporter()}
    done = exporting.export(fine_tuned, out=tmp_path / "eight", max_drop=100, **ask)
    reduced = done.reduced
    assert reduced is not None
    assert reduced.images == 60
    assert reduced.low <= reduced.change <= reduced.high
    assert reduced.in_float is not None and reduced.layers is not None
    assert 0 < reduced.in_float < reduced.layers
    opened = open_bundle(done.path)
    assert opened.precision == "int8"
    assert verify(opened).images == 32
    assert verify(opened, engine="openvino").images == 32  # on a CPU without VNNI, too
    card = (done.path / "README.md").read_text()
    assert "In int8 accuracy changes by" in card
    assert f"{reduced.in_float} of {reduced.layers} convolutions stay in float32" in card
    worse = replace(reduced, change=-0.02)
    monkeypatch.setattr(exporting, "compare_reduced", lambda *_: worse)
    monkeypatch.setattr(int8, "to_int8", lambda model, *_: int8.Quantized(model, 1, 2))
    with pytest.raises(BundleError, match=r"-2\.00 points .* allows more than 1 points"):
        exporting.export(fine_tuned, out=tmp_path / "refused", **ask)
    assert not (tmp_path / "refused").exists()


@pytest.mark.usefixtures("exported_once")
def test_the_command_names_what_it_writes_and_refuses_a_page(
    fine_tuned: Run, tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    refused = headstart("export", fine_tuned.path, "--precision", "bfloat16", "--format", "html")
    assert (refused.code, "--precision bfloat16 is for a bundle" in refused.err) == (2, True)
    refused = headstart("export", fine_tuned.path, "--precision", "float16")
    assert (refused.code, "bfloat16" in refused.err) == (2, True)
    out = tmp_path / "half"
    words = ("--precision", "bfloat16", "--max-drop", 100, "--out", out)
    done = headstart("export", fine_tuned.path, *words)
    assert done.code == 0, done.err
    assert "In bfloat16 accuracy changes by" in done.out
    assert "A series is " in done.out


@pytest.mark.usefixtures("exported_once")
def test_without_its_images_a_run_has_no_bundle_of_fewer_digits(
    fine_tuned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "run_images", lambda run: None)
    with pytest.raises(RunError, match="bfloat16 needs its images"):
        exporting.export(
            fine_tuned, out=tmp_path / "b", precision="bfloat16", reporter=library.Reporter()
        )


class Measured:
    """In the place of the measurement: OpenVINO answers a series three times as fast, ONNX Runtime
    one image. Counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, started: Any, pixels: np.ndarray, streams: int) -> str:
        self.asked += 1
        return "openvino" if len(pixels) > 1 and "openvino" in started else "onnxruntime"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measured:
    found = Measured()
    monkeypatch.setattr(choosing, "quickest", found)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "remembering"))
    return found


def test_what_one_series_measured_serves_all_that_follow(
    published: Path, fine_tuned: Run, measured: Measured
) -> None:
    pixels = load_data(fine_tuned.recipe.data).test.read(np.arange(20))
    expected = load(published).logits_of_series(pixels)
    assert measured.asked == 0  # a short series measures nothing
    predictor = load(published)
    predictor.prepare_for_many()
    assert (measured.asked, predictor.engine_name) == (1, "onnxruntime, and openvino for a series")
    later = load(published)
    assert later.engine_name == predictor.engine_name
    np.testing.assert_allclose(later.logits_of_series(pixels), expected, atol=1e-3)
    later.prepare_for_many()
    later.logits(pixels[:1])
    assert measured.asked == 1
    later.prepare_for_one()  # of its own
    assert measured.asked == 2
    assert load(published, threads=7).engine_name == "onnxruntime"  # that was not measured
    assert load(published, engine="onnxruntime").engine_name == "onnxruntime"


@pytest.mark.parametrize("fault", ["answers otherwise", "does not take the model"])
def test_an_engine_that_does_not_do_is_left_out(
    published: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from headstart_predict.engines import OpenVINO

    original = OpenVINO.run
    if fault == "answers otherwise":
        monkeypatch.setattr(
            OpenVINO, "run", lambda self, pixels: np.roll(original(self, pixels), 1, axis=1)
        )
    else:
        monkeypatch.setattr(OpenVINO, "__init__", lambda *_: 1 / 0)
    predictor = load(published)
    predictor.prepare_for_many()
    assert predictor.engine_name == "onnxruntime"


class Scripted:
    """In the place of held-out images: how far each try falls."""

    def __init__(self, *falls: float) -> None:
        self.falls = list(falls)

    def __len__(self) -> int:
        return 100

    def fall(self, model: bytes) -> float:
        return self.falls.pop(0)


@pytest.mark.parametrize(
    ("falls", "chosen", "left"),
    [
        ((0.003, 0, 0, 0), 0, 3),  # the fewest are enough
        ((0.02, 0.004, 0.001, 0), 2, 1),
        ((0.02, 0.005, 0.006, 0.007), 1, 0),  # none is: the best
        ((-0.01, 1, 1, 1), 0, 3),  # better than float32
    ],
)
def test_validation_chooses_how_many_convolutions_stay_in_float32(
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    falls: tuple[float, ...],
    chosen: int,
    left: int,
) -> None:
    pytest.importorskip("nncf")
    content = (published / "model.onnx").read_bytes()
    monkeypatch.setattr(int8, "_quantize", lambda *_: content)
    monkeypatch.setattr(int8, "FIRST", 2)  # this network has 16
    held_out: Any = Scripted(*falls)
    train: Any = None
    made = int8.to_int8(content, train, held_out, library.Reporter())
    count = made.layers
    tries = [2, count // 4, count // 2, int(0.75 * count)]
    assert tries == sorted(set(tries))
    assert made.in_float == tries[chosen]
    assert len(held_out.falls) == left


def test_a_layer_in_eight_bits_is_given_back_its_float32() -> None:
    """Two convolutions, the second one in eight bits, with another bias."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((3, 3, 1, 1)).astype(np.float32) for _ in range(2)]
    initializers = [
        *(numpy_helper.from_array(each, f"w{i}") for i, each in enumerate(weights)),
        numpy_helper.from_array(np.float32([1, 2, 3]), "b"),
    ]
    conv = onnx.helper.make_node
    plain = [
        conv("Conv", ["pixels", "w0"], ["x"], "first"),
        conv("Conv", ["x", "w1", "b"], ["logits"], "second"),
    ]
    eight = [
        plain[0],
        conv("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        conv("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        conv("Conv", ["d", "w1", "b"], ["logits"], "second"),
    ]
    changed = [
        *initializers[:2],
        numpy_helper.from_array(np.float32([9, 9, 9]), "b"),
        numpy_helper.from_array(np.float32(0.5), "s"),
        numpy_helper.from_array(np.uint8(128), "z"),
    ]
    whole, quantized = _model(plain, initializers), _model(eight, changed)
    same = onnx.load_from_string(int8.in_float32(quantized.SerializeToString(), whole, ["first"]))
    assert [node.name for node in same.graph.node] == [node.name for node in eight]
    assert numpy_helper.to_array({t.name: t for t in same.graph.initializer}["b"])[0] == 9
    back = int8.in_float32(quantized.SerializeToString(), whole, ["first", "second"])
    made = onnx.load_from_string(back)
    assert [node.name for node in made.graph.node] == ["first", "second"]
    assert sorted(each.name for each in made.graph.initializer) == ["b", "w0", "w1"]
    pixels = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    found, expected = (
        engines.start("onnxruntime", each, 1).run(pixels)
        for each in (back, whole.SerializeToString())
    )
    np.testing.assert_array_equal(found, expected)


def _model(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> onnx.ModelProto:
    shape = ["n", 3, 4, 4]
    x, y = (
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("pixels", "logits")
    )
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], initializers)
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)


def test_what_a_version_changes_is_told_on_held_out_answers(
    fine_tuned: Run, published: Path, half: exporting.Exported
) -> None:
    splits = load_data(fine_tuned.recipe.data)
    plain = (published / "model.onnx").read_bytes()
    held_out = HeldOut(fine_tuned, splits, plain)
    assert len(held_out) == len(fine_tuned.predictions("val"))
    assert held_out.fall(plain) == pytest.approx(0, abs=1e-6)
    assert abs(held_out.fall((half.path / "model.onnx").read_bytes())) < 0.02
    model = onnx.load_from_string(plain)
    for tensor in model.graph.initializer:
        if tensor.name == "head.0.weight":  # ten times as sure of everything
            wild = 10 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(wild, tensor.name))
    saved = fine_tuned.predictions("val").tempered(fine_tuned.metrics.temperature)
    before = saved.probabilities[np.arange(len(saved)), saved.labels].mean()
    fall = held_out.fall(model.SerializeToString())
    assert abs(fall) > 0.01
    assert before - 1 <= fall <= before
