"""What is said of a model of fewer digits, and how its weights are rounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.deployment import bfloat16
from headstart.deployment.reduced import (
    Reduced,
    Speed,
    cpu_flags,
    describe_reduced,
    describe_speed,
    has_quick,
)
from headstart_predict import engines

SPEED = Speed(0.4, 0.3, 0.5, 100.0, 250.0, "onnxruntime", "openvino", "a CPU", 2, False)
FOUND = Reduced("int8", 500, -0.002, -0.01, 0.006, 0.03, 2.7, 9.0, SPEED, 5, 52)


@pytest.mark.parametrize(
    ("precision", "times", "quick", "line"),
    [
        ("int8", 1.44, True, "A series is 1.4 times as fast as in float32 on a CPU (2 threads)."),
        ("int8", 1.02, False, "A series is as fast as in float32 on a CPU (2 threads)."),
        ("int8", 0.4, True, "A series is slower than in float32 (0.4 times) on a CPU (2 threads)."),
        (
            "int8",
            0.4,
            False,
            "A series is slower than in float32 (0.4 times) on a CPU (2 threads): this CPU does "
            "not multiply 8-bit numbers quickly.",
        ),
        (
            "bfloat16",
            0.99,
            False,
            "A series is as fast as in float32 on a CPU (2 threads): this CPU computes it in "
            "float32.",
        ),
        ("bfloat16", 0.99, None, "A series is as fast as in float32 on a CPU (2 threads)."),
    ],
)
def test_the_speed_is_said_with_the_machine_and_the_reason(
    precision: str, times: float, quick: bool | None, line: str
) -> None:
    speed = replace(SPEED, times=times, low=times - 0.1, high=times + 0.1, quick=quick)
    assert describe_speed(replace(FOUND, precision=precision, speed=speed)) == line


def test_what_stays_in_float_is_said_where_layers_are_changed() -> None:
    assert "5 of 52 convolutions stay in float32." in describe_reduced(FOUND)
    half = replace(FOUND, precision="bfloat16", in_float=None, layers=None)
    assert "convolutions" not in describe_reduced(half)


def test_a_cpu_is_known_by_its_flags(tmp_path: Path) -> None:
    listed = tmp_path / "cpuinfo"
    listed.write_text("model name\t: X\nflags\t\t: fpu avx2 avx_vnni amx_bf16\n")
    assert cpu_flags(listed) == {"fpu", "avx2", "avx_vnni", "amx_bf16"}
    assert has_quick("int8", cpu_flags(listed)) is has_quick("bfloat16", cpu_flags(listed)) is True
    assert has_quick("int8", {"avx2"}) is has_quick("bfloat16", {"avx2"}) is False
    assert has_quick("int8", cpu_flags(tmp_path / "none")) is None


def test_weights_are_rounded_to_the_nearest_as_torch_does() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(10_000).astype(np.float32) * 10.0 ** rng.integers(-30, 30, 10_000)
    values = np.concatenate(
        [values.astype(np.float32), np.float32([0, -0.0, 1 + 2**-8, 1 - 2**-9])]
    )
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy()
    np.testing.assert_array_equal(bfloat16._rounded(values).view("<i2"), expected)


class Core:
    """An OpenVINO whose CPU has what is given; keeps the settings it was asked to compile with."""

    def __init__(self, able: list[str]) -> None:
        self.able, self.settings = able, dict[str, Any]()

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.able

    def read_model(self, content: bytes) -> bytes:
        return content

    def compile_model(self, model: bytes, device: str, settings: dict[str, Any]) -> Core:
        self.settings = settings
        return self

    def create_infer_request(self) -> None:
        return None


@pytest.mark.parametrize(
    ("precision", "able", "hint"),
    [
        ("bfloat16", ["FP32", "BF16", "INT8"], "bf16"),
        ("bfloat16", ["FP32", "INT8"], "f32"),
        ("float32", ["FP32", "BF16", "INT8"], "f32"),
        ("int8", ["FP32", "BF16", "INT8"], "f32"),
    ],
)
def test_openvino_computes_in_bfloat16_where_the_model_and_the_cpu_do(
    monkeypatch: pytest.MonkeyPatch, precision: str, able: list[str], hint: str
) -> None:
    class OpenVINO:
        made = Core(able)

        @classmethod
        def Core(cls) -> Core:  # noqa: N802  # OpenVINO's name
            return cls.made

    monkeypatch.setattr(engines, "import_openvino", lambda: OpenVINO)
    engines.start("openvino", b"", 1, 2, precision)
    assert OpenVINO.made.settings["INFERENCE_PRECISION_HINT"] == hint
    assert OpenVINO.made.settings["NUM_STREAMS"] == 2
