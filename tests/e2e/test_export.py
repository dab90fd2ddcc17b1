"""Bundles: what leaves the house answers as the run does, or is refused."""

from __future__ import annotations

import csv
import gc
import io
import json
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import headstart as library
from headstart.data import load_data
from headstart.deployment import bundles
from headstart.deployment import export as exporting
from headstart.deployment.golden import FILE as KEPT
from headstart.deployment.predictor import load_predictor
from headstart.errors import BundleError, RunError
from headstart.rundir.run import Run
from headstart_predict import engines, load, open_bundle, verify
from headstart_predict.bundle import read_golden
from headstart_predict.shapes import softmax
from tests.conftest import Outcome


@pytest.fixture(scope="module")
def run(fine_tuned: Run) -> Run:
    return fine_tuned


def photos(folder: Path) -> list[Path]:
    """Pictures as people have them: turned, transparent, grey, CMYK, deep, with a palette, wide."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    picture = small.resize((240, 180), Image.Resampling.BICUBIC)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        picture.save(folder / f"turned-{turn}.jpg", exif=exif)
    clear = picture.convert("RGBA")
    clear.putalpha(picture.convert("L"))
    clear.save(folder / "clear.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("CMYK").save(folder / "ink.jpg")
    picture.quantize(16).save(folder / "palette.gif")
    deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    picture.resize((900, 90)).save(folder / "wide.webp", lossless=True)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_picture_has_the_same_answer_on_every_way(
    run: Run, published: Path, tmp_path: Path, engine: str
) -> None:
    paths = photos(tmp_path / "photos")
    by_torch = load_predictor(run, device="cpu").predict(paths)
    predictor = load(published, engine=engine)
    by_bundle = predictor.predict(paths)
    assert [a.image for a in by_bundle] == [a.image for a in by_torch] == list(map(str, paths))
    for one, other in zip(by_torch, by_bundle, strict=True):
        assert one.label == other.label
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-5)
    contents = [path.read_bytes() for path in paths]
    for one, other in zip(by_bundle, predictor.predict(contents), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert len({a.label for a in by_bundle} | {round(a.probability, 4) for a in by_bundle}) > 3


def test_the_graph_gives_calibrated_probabilities_and_features(run: Run, published: Path) -> None:
    pixels = load_data(run.recipe.data).test.read(np.arange(5))
    predictor, opened = load(published), open_bundle(published)
    engine = engines.start("onnxruntime", opened.read("model.onnx"), 1)
    logits = predictor.logits(pixels)
    expected = softmax(logits / opened.temperature)
    np.testing.assert_allclose(engine.run(pixels, "probabilities"), expected, atol=1e-6)
    features = predictor.features(pixels)
    assert features.ndim == 2
    assert len(features) == 5


def test_an_image_has_one_answer_alone_in_a_crowd_and_in_threads(
    published: Path, tmp_path: Path
) -> None:
    paths = photos(tmp_path / "photos")
    predictor = load(published, threads=2)
    alone = [predictor.predict(path)[0] for path in paths]
    crowd = predictor.predict(paths * 3)
    for number, answer in enumerate(crowd):
        assert answer.probabilities == pytest.approx(
            alone[number % len(paths)].probabilities, abs=1e-6
        )
    seen: list[Any] = []
    threads = [
        threading.Thread(target=lambda: seen.append(predictor.predict(paths))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[a.label for a in answers] for answers in seen] == [[a.label for a in alone]] * 4


FORKS = """
import os, sys
if sys.argv[3] == "torch":
    import torch
    from headstart import load_predictor
    torch.set_num_threads(2)
    predictor = load_predictor(sys.argv[1], device="cpu")
else:
    from headstart_predict import load
    predictor = load(sys.argv[1], threads=2)
expected = predictor.predict(sys.argv[2])[0].label
child = os.fork()
if child == 0:
    os._exit(0 if predictor.predict(sys.argv[2])[0].label == expected else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_child_that_was_forked_after_a_prediction_predicts(
    run: Run, published: Path, engine: str
) -> None:
    source = run.path if engine == "torch" else published
    picture = published / "golden" / "00.png"
    words = [sys.executable, "-c", FORKS, str(source), str(picture), engine]
    assert subprocess.run(words, timeout=60, check=False).returncode == 0


def test_a_predictor_that_nobody_uses_any_more_is_freed_with_its_engines(
    run: Run, published: Path
) -> None:
    """Else what a model costs to serve would count those that were measured before it."""
    predictor = load(published)
    pixels = load_data(run.recipe.data).test.read(np.arange(20))
    predictor.logits_of_series(pixels)
    held = [weakref.ref(predictor._start(streams)) for streams in (1, predictor.workers)]
    del predictor
    gc.collect()
    assert [each() for each in held] == [None, None]


def test_an_unreadable_picture_is_left_out_and_the_rest_keep_their_order(
    published: Path, tmp_path: Path
) -> None:
    paths = photos(tmp_path / "photos")
    bad = tmp_path / "photos" / "none.jpg"
    bad.write_bytes(b"no picture")
    given = [*paths[:3], bad, *paths[3:]]
    missed: list[Exception] = []
    answers = load(published).predict(given, on_unreadable=missed.append)
    assert [a.image for a in answers] == list(map(str, paths))
    assert [str(bad) in str(error) for error in missed] == [True]


def test_both_commands_print_the_same_table(
    run: Run,
    published: Path,
    tmp_path: Path,
    headstart: Callable[..., Outcome],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from headstart_predict.cli import main

    folder = photos(tmp_path / "photos")[0].parent
    by_run = headstart("predict", run.path, folder, "--csv", "--device", "cpu")
    assert by_run.code == 0, by_run.err
    with pytest.raises(SystemExit) as stop:
        main([str(published), str(folder), "--csv"])
    assert not stop.value.code
    by_bundle = capsys.readouterr().out
    ours, theirs = (list(csv.reader(io.StringIO(text))) for text in (by_run.out, by_bundle))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert list(map(float, one[2:])) == pytest.approx(list(map(float, other[2:])), abs=2e-6)
    assert headstart("predict", published, folder, "--csv").out == by_bundle
    assert json.loads(headstart("predict", published, folder, "--json").out)[0]["label"]


def test_a_bundle_works_elsewhere_without_torch_or_headstart(bundle: Path, tmp_path: Path) -> None:
    paths = photos(tmp_path / "photos")
    blocked = "import sys; [sys.modules.update({n: None}) for n in ('torch', 'headstart', 'timm')];"
    code = f"{blocked} sys.argv = ['example.py', {str(paths[0])!r}]; import runpy; " + (
        f"runpy.run_path({str(bundle / 'example.py')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    expected = load(bundle).predict(paths[0])[0]
    assert done.stdout == f"{paths[0]}: {expected.label} ({expected.probability:.1%})\n"


@pytest.mark.usefixtures("exported_once")
def test_a_run_without_its_data_is_checked_by_the_images_that_it_keeps(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "run_images", lambda run: None)
    copied = shutil.copytree(run.path, tmp_path / "run")
    done = exporting.export(copied, reporter=library.Reporter())
    assert done.path == copied / "export"
    assert done.parity.images == 32
    assert verify(done.path).images == 32
    (copied / KEPT).unlink()
    with pytest.raises(RunError, match=r"golden\.npz: missing"):
        exporting.export(copied, reporter=library.Reporter())


def test_another_model_is_not_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resize that ONNX has itself would be such a one."""
    original = exporting.to_onnx

    def shifted(deployed: Any, side: int) -> bytes:
        deployed.mean = deployed.mean + 0.02
        return original(deployed, side)

    monkeypatch.setattr(exporting, "to_onnx", shifted)
    with pytest.raises(BundleError, match=r"not exported: .* the worst is .* differs by"):
        exporting.export(run, out=tmp_path / "bundle", reporter=library.Reporter())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize("form", ["openvino", "torch"])
def test_a_further_form_answers_as_the_bundle_that_it_is_in(
    run: Run, tmp_path: Path, form: str
) -> None:
    done = exporting.export(run, out=tmp_path / "b", form=form, reporter=library.Reporter())
    golden = read_golden(open_bundle(done.path))
    assert verify(done.path).images == len(golden.pixels)
    if form == "openvino":
        core = engines.import_openvino().Core()
        # Where the CPU has it, OpenVINO computes in bfloat16 unless it is told otherwise.
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(done.path / "model.xml", "CPU", settings)
        found = np.array(compiled({"pixels": golden.pixels})["logits"])
    else:
        program = torch.export.load(done.path / "model.pt2").module()
        found = program(torch.from_numpy(golden.pixels))[0].detach().numpy()
    np.testing.assert_allclose(found, golden.logits, atol=1e-4)


@pytest.mark.usefixtures("exported_once")
def test_a_form_that_answers_otherwise_is_not_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        exporting,
        "as_openvino",
        lambda model: ({"model.xml": b""}, lambda p: np.ones((len(p), 10))),
    )
    with pytest.raises(BundleError, match=r"model\.xml answers otherwise than the run"):
        exporting.export(run, out=tmp_path / "b", form="openvino", reporter=library.Reporter())
    assert list(tmp_path.iterdir()) == []


class Looping(torch.nn.Module):
    """What torch cannot export: the values decide what is computed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_network_that_cannot_be_exported_is_a_line_and_torch_predicts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.deployment import onnx_export, quickest

    original = onnx_export.Deployed.forward

    def looping(self: Any, pixels: torch.Tensor) -> Any:
        return original(self, Looping()(pixels))

    monkeypatch.setattr(onnx_export.Deployed, "forward", looping)
    copied = Path(shutil.copytree(run.path, tmp_path / "run"))
    with pytest.raises(BundleError, match="cannot be exported to ONNX"):
        exporting.export(copied, reporter=library.Reporter())
    monkeypatch.setattr(quickest, "WORTH_EXPORTING", 1)
    assert type(quickest.open_predictor(copied)).__name__ == "Predictor"
    assert not (copied / "export").exists()


def test_a_model_that_a_bundle_may_not_hold_is_not_published(
    run: Run, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.deployment import onnx_export
    from headstart_predict import onnx_file

    content = (published / "model.onnx").read_bytes()
    monkeypatch.setattr(onnx_export, "_exported", lambda deployed, side: content)
    monkeypatch.setattr(onnx_file, "OPERATIONS", frozenset(("Conv",)))
    with pytest.raises(BundleError, match="is not one of a bundle's"):
        exporting.export(run, out=tmp_path / "b", reporter=library.Reporter())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported_once")
def test_only_a_bundle_is_replaced(
    run: Run, bundle: Path, tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    exporting.export(run, out=bundle, reporter=library.Reporter())
    assert verify(bundle).largest < 1e-4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused = headstart("export", run.path, "--out", tmp_path / "mine")
    assert (refused.code, "is no bundle" in refused.err) == (2, True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


@pytest.mark.usefixtures("exported_once")
def test_an_interrupted_export_leaves_the_bundle_before(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundles, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exporting.export(run, out=bundle, reporter=library.Reporter())
    assert verify(bundle).images == 32
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


@pytest.mark.usefixtures("exported_once")
def test_a_predictor_of_a_run_uses_its_own_bundle_while_it_is_of_this_model(
    run: Run, tmp_path: Path
) -> None:
    from headstart.deployment.quickest import open_predictor

    copied = shutil.copytree(run.path, tmp_path / "run")
    exporting.export(copied, reporter=library.Reporter())
    assert type(open_predictor(copied)).__name__ == "BundlePredictor"
    assert type(open_predictor(copied, device="cpu")).__name__ == "Predictor"
    record = copied / "export" / "bundle.json"
    changed = json.loads(record.read_text()) | {"model_sha256": "0" * 64}
    record.write_text(json.dumps(changed))
    assert type(open_predictor(copied)).__name__ == "Predictor"


def test_the_command_explains_what_is_missing(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from headstart_predict.cli import main

    for words, line in (
        ([published], "give images"),
        ([tmp_path / "nowhere", "a.jpg"], "no such folder"),
        ([published, tmp_path / "nowhere.jpg"], "no such file or folder"),
        ([published, "a.jpg", "--threads", "0"], "--threads"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        assert stop.value.code == 2
        assert line in capsys.readouterr().err


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize(("images", "cuda"), [(500, True), (499, True), (500, False)])
def test_a_long_series_of_a_run_goes_to_the_gpu_if_there_is_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, cuda: bool
) -> None:
    from headstart.deployment import predictor, quickest

    copied = Path(shutil.copytree(run.path, tmp_path / "run"))
    exporting.export(copied, reporter=library.Reporter(), whole_test=False)
    asked: list[str] = []
    monkeypatch.setattr(quickest, "has_cuda", lambda: cuda)
    monkeypatch.setattr(predictor, "load_predictor", lambda run, *, device: asked.append(device))
    said: list[str] = []
    reporter = library.Reporter()
    monkeypatch.setattr(reporter, "say", said.append)
    opened = quickest.open_predictor(copied, images=images, reporter=reporter)
    if cuda and images == 500:
        assert (opened, asked) == (None, ["cuda"])
        assert said == [
            "torch predicts on the GPU, as there are 500 images; --device cpu asks the CPU"
        ]
    else:
        assert (type(opened).__name__, asked, said) == ("BundlePredictor", [], [])


def test_torch_is_not_imported_to_look_for_a_gpu_where_no_driver_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from headstart.deployment import quickest

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quickest, "may_have_cuda", lambda: False)
    assert not quickest.has_cuda()
    monkeypatch.setattr(quickest, "may_have_cuda", lambda: True)
    assert quickest.has_cuda()
