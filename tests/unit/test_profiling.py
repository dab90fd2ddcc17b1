"""Profiles: every second counts once, under the innermost section."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headstart.machine import profiling
from headstart.machine.profiling import each_in_section, profiled, section


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(profiling, "time", clock)
    return clock


def seconds(profile: profiling.Profile) -> dict[str, float]:
    return {part["name"]: part["seconds"] for part in profile.to_json()["sections"]}


def test_a_section_is_counted_without_the_ones_inside_it(clock: Clock) -> None:
    with profiled() as profile:
        clock.now += 1
        with section("outer"):
            clock.now += 2
            with section("inner"):
                clock.now += 4
            clock.now += 8
        clock.now += 16
    assert seconds(profile) == {"other": 17, "outer": 10, "inner": 4}
    assert profile.to_json()["total_s"] == 31
    assert [part["name"] for part in profile.to_json()["sections"]] == ["other", "outer", "inner"]


def test_producing_items_counts_and_using_them_does_not(clock: Clock) -> None:
    def slowly() -> Iterator[int]:
        for item in range(3):
            with section("decode"):
                clock.now += 1
            clock.now += 10
            yield item

    with profiled() as profile:
        for _ in each_in_section(slowly(), "prefix"):
            clock.now += 100
    assert seconds(profile) == {"other": 300, "prefix": 30, "decode": 3}


def test_an_error_closes_its_section(clock: Clock) -> None:
    with profiled() as profile:
        with pytest.raises(ValueError, match="no"), section("broken"):
            clock.now += 1
            raise ValueError("no")
        clock.now += 2
    assert seconds(profile) == {"other": 2, "broken": 1}


def test_without_a_profile_nothing_is_recorded() -> None:
    with section("alone"):
        assert profiling.active_profile() is None
    with profiled() as profile:
        pass
    assert seconds(profile).keys() == {"other"}
