"""The desk: which images are computed together, and when there are too many."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart_predict.errors import DataError
from headstart_predict.serving.desk import Desk
from headstart_predict.serving.metrics import Metrics
from headstart_predict.serving.problems import RequestError
from headstart_predict.serving.settings import Limits

SIDE = 4


class Predictor:
    """Its logit is the mean of the pixels. calls: how many images each call had, and on how many
    cores: all, or one."""

    side, framing = SIDE, "crop"

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def logits(self, pixels: np.ndarray, cores: str = "all") -> np.ndarray:
        self.calls.append((len(pixels), cores))
        self.begun.set()
        assert self.may_go_on.wait(10)
        return np.asarray(pixels.mean(axis=(1, 2, 3))[:, None].astype(np.float32))

    def logits_of_many(self, pixels: np.ndarray) -> np.ndarray:
        return self.logits(pixels, "one")


def hosted(batch: int = 4, spread: bool = True) -> Any:
    return SimpleNamespace(predictor=Predictor(), batch=batch, spread=spread, name="m")


def picture(level: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (SIDE, SIDE), level).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk(1, Limits(queue=10.0), Metrics())
    yield made
    made.stop()


def levels(outcomes: Sequence[Any]) -> list[float]:
    return [float(outcome[0]) for outcome in outcomes]


def test_images_keep_their_places_and_are_computed_in_batches(desk: Desk) -> None:
    model = hosted(batch=4)
    found = asyncio.run(desk.answer(model, [picture(level) for level in range(10)]))
    assert levels(found) == list(range(10))
    assert [count for count, _ in model.predictor.calls] == [4, 4, 2]


def test_an_image_alone_gets_every_core(desk: Desk) -> None:
    model = hosted()
    assert levels(asyncio.run(desk.answer(model, [picture(7)]))) == [7]
    assert model.predictor.calls == [(1, "all")]


def test_an_image_alone_stays_on_one_core_where_that_is_as_quick(desk: Desk) -> None:
    model = hosted(spread=False)
    asyncio.run(desk.answer(model, [picture(7)]))
    assert model.predictor.calls == [(1, "one")]


def test_images_of_several_requests_share_a_batch(desk: Desk) -> None:
    model = hosted(batch=8)
    model.predictor.may_go_on.clear()

    async def ask() -> list[float]:
        first = asyncio.create_task(desk.answer(model, [picture(1)]))
        await asyncio.to_thread(model.predictor.begun.wait)
        rest = [asyncio.create_task(desk.answer(model, [picture(n)])) for n in (2, 3, 4)]
        while desk.wait < 3 * desk.mean:
            await asyncio.sleep(0)
        model.predictor.may_go_on.set()
        return [levels(await each)[0] for each in (first, *rest)]

    assert asyncio.run(ask()) == [1, 2, 3, 4]
    assert model.predictor.calls == [(1, "all"), (3, "one")]


def test_models_do_not_share_a_batch(desk: Desk) -> None:
    one, other = hosted(), hosted()

    async def ask() -> list[list[float]]:
        both = desk.answer(one, [picture(1), picture(2)]), desk.answer(other, [picture(3)])
        return [levels(found) for found in await asyncio.gather(*both)]

    assert asyncio.run(ask()) == [[1, 2], [3]]
    assert sum(count for count, _ in one.predictor.calls) == 2
    assert sum(count for count, _ in other.predictor.calls) == 1


def test_pixels_are_not_decoded_again(desk: Desk) -> None:
    pixels = np.full((SIDE, SIDE, 3), 9, np.uint8)
    assert levels(asyncio.run(desk.answer(hosted(), [pixels, pixels]))) == [9, 9]


def test_an_image_that_cannot_be_read_spoils_no_other(desk: Desk) -> None:
    found = asyncio.run(desk.answer(hosted(), [picture(1), b"junk", picture(3)]))
    assert isinstance(found[1], DataError)
    assert levels([found[0], found[2]]) == [1, 3]


def test_an_error_of_the_engine_is_raised_and_the_desk_goes_on(desk: Desk) -> None:
    broken, sound = hosted(), hosted()
    broken.predictor.logits = lambda pixels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        asyncio.run(desk.answer(broken, [picture(1)]))
    assert levels(asyncio.run(desk.answer(sound, [picture(2)]))) == [2]


def test_too_many_images_are_refused(desk: Desk) -> None:
    model = hosted()
    model.predictor.may_go_on.clear()
    crowd = [picture(n) for n in range(50)]

    async def ask() -> RequestError:
        tight = Desk(1, Limits(queue=1e-6), Metrics())
        first = asyncio.create_task(tight.answer(model, crowd))
        await asyncio.to_thread(model.predictor.begun.wait)
        with pytest.raises(RequestError) as refused:
            await tight.answer(model, [picture(1)])
        model.predictor.may_go_on.set()
        assert len(await first) == 50
        assert levels(await tight.answer(model, [picture(2)])) == [2]
        tight.stop()
        return refused.value

    found = asyncio.run(ask())
    assert found.status == 429
    assert int(found.headers["retry-after"]) >= 1
