"""How fast an exported model answers, beside torch and loops written by hand.

    python bench/serving.py [--repeats N] [--photos N] [--before CHECKOUT]

Photos are JPEG files of 640 x 480 pixels, made from the embedded sample. MobileNetV2 and
EfficientNet-Lite0 at 160 pixels get a head on a few of them, and are exported.

photos: images a second over all photos, from files to answers: headstart-predict; the run's own
predictor in torch; and loops as people write them with ONNX Runtime and OpenVINO, on the bundle's
own model: Pillow opens, converts and resizes, batches of 16, every core. The loops decode in
Pillow's draft mode, too. latency: one photo after the other.

int8: images a second of pixels that are decoded already, in float32 and in int8, each by the engine
that is the quickest here. int8 pays where the CPU multiplies 8-bit numbers (VNNI, AMX).

--before: a checkout of an earlier commit, which trains the same head with its own code. Then its
`headstart predict --csv` and today's take turns, as whole processes: all photos, and a single one.

The tools alternate, N times; medians, and ratios with their range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import leave_serving_unmeasured, machine_line, ratio
from PIL import Image

import headstart
from headstart.data.sources.mini import open_mini
from headstart.deployment.export import export
from headstart.deployment.predictor import load_predictor
from headstart.machine.progress import Reporter
from headstart_predict import load
from headstart_predict.engines import import_openvino, usable_cores

NETWORKS = ("mobilenetv2_100", "tf_efficientnet_lite0")
HERE = Path(__file__).resolve().parents[1]
SIZE, BATCH, ALONE = 160, 16, 60  # pixels; images; photos of the latency


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    leave_serving_unmeasured()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = make_photos(folder / "photos", options.photos)
        make_photos(folder / "few", 60)
        print(machine_line(options.repeats))
        for network in NETWORKS:
            loaded = headstart.load_recipe("folder-probe", settings_of(network, folder))
            run = headstart.run(loaded, out=folder / network, reporter=Reporter())
            bundle = export(run, reporter=Reporter()).path
            measure(network, run, bundle, photos, options.repeats)
            if options.before:
                measure_commands(network, run, options.before, folder, photos, options.repeats)
            eight = export(
                run, out=folder / f"{network}-int8", precision="int8", max_drop=100,
                reporter=Reporter(),
            ).path  # fmt: skip
            measure_int8(bundle, eight, options.repeats)


def make_photos(folder: Path, count: int) -> list[Path]:
    """JPEG files in two folders, of classes that look different."""
    train, paths = open_mini().train, []
    for number in range(count):
        row = np.flatnonzero(train.labels == number % 2)[number // 2 % 150]
        rng = np.random.default_rng(number)
        picture = Image.fromarray(train.read(np.array([row]))[0]).resize((640, 480), 3)
        noise = rng.integers(-12, 13, (480, 640, 3))
        pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
        path = folder / str(number % 2) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
        paths.append(path)
    return paths


def settings_of(network: str, folder: Path) -> tuple[str, ...]:
    return (
        f"name={network}",
        f"data.source=folder:{folder / 'few'}",
        f"data.size={SIZE}",
        f"backbone.name={network}",
        "backbone.weights=registry",
    )


def measure(network: str, run: Any, bundle: Path, photos: Sequence[Path], repeats: int) -> None:
    ours, torch_path = load(bundle), load_predictor(run, device="cpu")
    model = (bundle / "model.onnx").read_bytes()
    onnxruntime_loop, openvino_loop = by_onnxruntime(model), by_openvino(model)
    series: dict[str, Callable[[], object]] = {
        "headstart-predict": lambda: ours.predict(list(photos)),
        "torch": lambda: torch_path.predict(list(photos)),
        "ONNX Runtime by hand": lambda: in_batches(photos, onnxruntime_loop),
        "OpenVINO by hand": lambda: in_batches(photos, openvino_loop),
    }
    alone: dict[str, Callable[[Path], object]] = {
        "headstart-predict": lambda path: ours.predict(path),
        "torch": lambda path: torch_path.predict(path),
        "ONNX Runtime by hand": lambda path: onnxruntime_loop(opened([path])),
        "OpenVINO by hand": lambda path: openvino_loop(opened([path])),
    }
    times: dict[str, list[float]] = defaultdict(list)
    single: dict[str, list[float]] = defaultdict(list)
    for call in series.values():  # what is measured once, and remembered
        call()
    for _ in range(repeats):
        for name, call in series.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
        for name, ask in alone.items():
            single[name].append(latency(ask, photos))
    print(f"\n{network}, {SIZE} pixels, {len(photos):,} photos (engine: {ours.engine_name})")
    print(f"{'':<24}{'images/s':>10}{'times as long':>26}{'ms alone':>10}{'times as long':>26}")
    for name in series:
        rate = len(photos) / statistics.median(times[name])
        milliseconds = 1e3 * statistics.median(single[name])
        slower = ratio(times[name], times["headstart-predict"])
        later = ratio(single[name], single["headstart-predict"])
        print(f"{name:<24}{rate:>10.0f}{slower:>26}{milliseconds:>10.1f}{later:>26}")


def measure_commands(
    network: str, run: Any, before: Path, folder: Path, photos: Sequence[Path], repeats: int
) -> None:
    """Whole processes: those of an earlier commit and today's, by turns."""
    earlier = folder / f"{network}-before"
    settings = [f"--set={line}" for line in settings_of(network, folder)]
    command(before, "run", "folder-probe", *settings, "--out", str(earlier))
    asked = {"all photos": str(photos[0].parents[1]), "one photo": str(photos[0])}
    trees = {"before": (before, earlier), "now": (HERE, run.path)}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(repeats):
        for what, path in asked.items():
            for name, (tree, made) in trees.items():
                began = time.perf_counter()
                command(tree, "predict", str(made), path, "--csv")
                times[name, what].append(time.perf_counter() - began)
    for what in asked:
        then, now = times["before", what], times["now", what]
        medians = f"{statistics.median(then):.1f} s, now {statistics.median(now):.1f} s"
        print(
            f"headstart predict, {what}: before {medians}: {ratio(then, now)} times as long",
            flush=True,
        )


def command(tree: Path, *arguments: str) -> None:
    paths = os.pathsep.join([str(tree / "src"), str(tree / "predictor" / "src")])
    environment = {**os.environ, "PYTHONPATH": paths}
    if tree != HERE:  # its caches have another format
        environment["HEADSTART_CACHE"] = str(Path(tempfile.gettempdir()) / "headstart-before")
    started = [sys.executable, "-m", "headstart", *arguments]
    subprocess.run(started, env=environment, check=True, capture_output=True)


def measure_int8(bundle: Path, eight: Path, repeats: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (512, SIZE, SIZE, 3), np.uint8)
    predictors = {"float32": load(bundle), "int8": load(eight)}
    times: dict[str, list[float]] = defaultdict(list)
    for predictor in predictors.values():
        predictor.prepare_for_many()
        predictor.logits_of_series(pixels)
    for _ in range(repeats):
        for name, predictor in predictors.items():
            began = time.perf_counter()
            predictor.logits_of_series(pixels)
            times[name].append(time.perf_counter() - began)
    for name, predictor in predictors.items():
        rate = len(pixels) / statistics.median(times[name])
        longer = ratio(times[name], times["int8"])
        print(f"{f'{name}, {predictor.engine_name}':<24}{rate:>10.0f}{longer:>26}")


def latency(ask: Callable[[Path], object], photos: Sequence[Path]) -> float:
    """The median time of one photo."""
    taken = []
    for path in photos[:ALONE]:
        began = time.perf_counter()
        ask(path)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def opened(paths: Sequence[Path]) -> np.ndarray:
    """Pixels as people read them: the centre square, resized."""
    squares = []
    for path in paths:
        with Image.open(path) as image:
            image.draft("RGB", (2 * SIZE, 2 * SIZE))
            short = min(image.size)
            left, top = (image.width - short) // 2, (image.height - short) // 2
            square = image.convert("RGB").crop((left, top, left + short, top + short))
            squares.append(np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
    return np.stack(squares)


def in_batches(photos: Sequence[Path], answer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    starts = range(0, len(photos), BATCH)
    return np.concatenate([answer(opened(photos[i : i + BATCH])) for i in starts])


def by_onnxruntime(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])


def by_openvino(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    core = import_openvino().Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # else some CPUs compute in bfloat16
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    return lambda pixels: np.asarray(compiled({"pixels": pixels})["probabilities"])


if __name__ == "__main__":
    main()
