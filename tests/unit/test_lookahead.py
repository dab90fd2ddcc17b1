"""Lookahead: the same items in the same order, errors in their place, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from headstart.features.lookahead import ahead
from headstart.machine.profiling import profiled, section

CPU = torch.device("cpu")


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "headstart-ahead"]


def test_items_come_in_order_from_another_thread() -> None:
    makers: set[int] = set()

    def items() -> Iterator[int]:
        for number in range(20):
            makers.add(threading.get_ident())
            yield number

    assert list(ahead(items(), CPU)) == list(range(20))
    assert makers and threading.get_ident() not in makers
    assert not workers()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_more_are_made_than_there_is_room_for(depth: int) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    for used, _ in enumerate(ahead(items(), CPU, depth), start=1):
        deadline = time.monotonic() + 5
        while len(made) < min(used + depth, 10) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)  # to make more, were there room
        assert len(made) == min(used + depth, 10)


def test_an_error_surfaces_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    got: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(ahead(items(), CPU))
    assert got == [1, 2]
    assert not workers()


def test_closing_ends_the_thread() -> None:
    made: list[int] = []

    def many() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    items = ahead(many(), CPU)
    assert next(items) == 0
    assert len(workers()) == 1
    items.close()
    assert not workers()
    assert len(made) <= 4


def test_a_profile_counts_the_wait_and_not_the_thread() -> None:
    def items() -> Iterator[int]:
        for number in range(3):
            with section("decode"):
                time.sleep(0.01)
            yield number

    with profiled() as profile:
        list(ahead(items(), CPU))
    found = {part["name"]: part["seconds"] for part in profile.to_json()["sections"]}
    assert "decode" not in found
    assert found["waiting"] > 0.02
