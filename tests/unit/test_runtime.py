"""A setting of the whole process, held by several threads at once."""

from __future__ import annotations

import threading

import pytest
import torch

from headstart.machine.runtime import full_float32


@pytest.fixture(autouse=True)
def _settings() -> object:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(precision)


def test_a_setting_holds_until_the_last_thread_leaves_and_is_then_as_before() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_float32():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with full_float32():
        thread.start()
        assert entered.wait(60)
    # The other thread is still within its block.
    assert torch.get_float32_matmul_precision() == "highest"
    leave.set()
    thread.join(60)
    assert torch.get_float32_matmul_precision() == "high"


def test_blocks_nest_and_end_with_an_error() -> None:
    with pytest.raises(RuntimeError), full_float32():
        with full_float32():
            pass
        assert torch.get_float32_matmul_precision() == "highest"
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == "high"
