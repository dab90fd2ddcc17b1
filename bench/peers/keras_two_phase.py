"""The two-phase workflow in Keras 3 on TensorFlow, as its transfer-learning guide has it.

A frozen MobileNetV2 in the loop with a dense head on top, then the upper blocks with it. The
weights are the ones every other peer has; the convolutions pad as those were trained, so that
Keras starts from the same features. Reads the job folder that it is given, prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers

# Expansion, channels, repeats, first stride of each stage (Sandler et al. 2018, table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet(size: int, weights: dict[str, np.ndarray]) -> keras.Model:
    """keras.applications' MobileNetV2 with torch's symmetric padding, named as timm names it."""
    x = pixels = keras.Input((size, size, 3))
    x = conv_norm(x, 32, 3, 2, "conv_stem", "bn1")
    channels = 32
    for stage, (expansion, width, repeats, stride) in enumerate(STAGES):
        for block in range(repeats):
            name = f"blocks.{stage}.{block}"
            entry, step = x, stride if block == 0 else 1
            numbers = iter((1, 2, 3))
            if expansion > 1:
                x = conv_norm(
                    x, channels * expansion, 1, 1, f"{name}.conv_pw", f"{name}.bn{next(numbers)}"
                )
            x = conv_norm(x, None, 3, step, f"{name}.conv_dw", f"{name}.bn{next(numbers)}")
            last = "conv_pwl" if expansion > 1 else "conv_pw"
            x = conv_norm(x, width, 1, 1, f"{name}.{last}", f"{name}.bn{next(numbers)}", act=False)
            if step == 1 and channels == width:
                x = layers.Add()([entry, x])
            channels = width
    x = conv_norm(x, 1280, 1, 1, "conv_head", "bn2")
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            name = layer.name.replace("__", ".")
            layer.set_weights(
                [
                    weights[f"{name}.{part}"]
                    for part in ("weight", "bias", "running_mean", "running_var")
                ]
            )
        elif layer.weights:
            kernel = weights[layer.name.replace("__", ".") + ".weight"]
            depthwise = isinstance(layer, layers.DepthwiseConv2D)
            layer.set_weights([kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))])
    return model


def conv_norm(x, filters, kernel, stride, name, norm, *, act=True):  # type: ignore[no-untyped-def]  # keras
    name, norm = name.replace(".", "__"), norm.replace(".", "__")
    padding = "same"
    if stride > 1:  # where "same" pads one side only, and torch both
        x, padding = layers.ZeroPadding2D(kernel // 2)(x), "valid"
    if filters is None:
        x = layers.DepthwiseConv2D(kernel, stride, padding, use_bias=False, name=name)(x)
    else:
        x = layers.Conv2D(filters, kernel, stride, padding, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(epsilon=1e-5, name=norm)(x)
    return layers.ReLU(6.0)(x) if act else x


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    if job["precision"] == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    with np.load(folder / "data.npz") as data, np.load(folder / "weights.npz") as weights:
        images = {name: data[name] for name in data.files}
        base = mobilenet(job["size"], dict(weights))
    keras.utils.set_random_seed(job["seed"])
    augment = keras.Sequential(
        [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.1, 0.1)]
    )

    def dataset(split: str, count: int | None = None) -> tf.data.Dataset:
        x, y = images[f"{split}_images"][:count], images[f"{split}_labels"][:count]
        found = tf.data.Dataset.from_tensor_slices((x, y))
        if split == "train":
            found = found.shuffle(len(x))
        found = found.batch(job["batch"])
        size = (job["size"], job["size"])
        found = found.map(
            lambda a, b: (tf.image.resize(tf.cast(a, tf.float32), size), b), tf.data.AUTOTUNE
        )
        if split == "train":
            found = found.map(lambda a, b: (augment(a, training=True), b), tf.data.AUTOTUNE)
        return found.prefetch(tf.data.AUTOTUNE)

    mean, std = np.array(job["mean"]) * 255, np.array(job["std"]) * 255
    base.trainable = False
    inputs = keras.Input((job["size"], job["size"], 3))
    x = layers.Normalization(mean=mean, variance=std**2)(inputs)
    # training=False keeps the batch norms' statistics, in both phases, as the guide asks.
    logits = layers.Dense(job["classes"], dtype="float32")(base(x, training=False))
    model = keras.Model(inputs, logits)
    answer: dict[str, object] = {
        "peer": f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
    }
    for phase in ("frozen", "tuned"):
        if phase == "tuned":
            base.trainable = True
            for layer in base.layers:
                if layer.name.startswith(job["boundary"].replace(".", "__")):
                    break
                layer.trainable = False
            for layer in base.layers:
                if isinstance(layer, layers.BatchNormalization):
                    layer.trainable = False
        model.compile(
            keras.optimizers.Adam(job[f"{phase}_lr"]),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        if not job[f"{phase}_epochs"]:
            continue
        warm = dataset("train", 4 * job["batch"])
        before = model.get_weights()
        model.fit(warm, verbose=0)  # traced and compiled outside the clock
        model.set_weights(before)
        train, val = dataset("train"), dataset("val")
        seconds, validation = [], []
        for _ in range(job[f"{phase}_epochs"]):
            started = time.perf_counter()
            model.fit(train, verbose=0)
            trained = time.perf_counter()
            model.evaluate(val, verbose=0)
            seconds.append(trained - started)
            validation.append(time.perf_counter() - trained)
        answer[phase] = {
            "epoch_s": seconds,
            "validation_s": validation,
            "accuracy": model.evaluate(dataset("test"), verbose=0)[1],
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
