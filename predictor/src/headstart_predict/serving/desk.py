"""The images of all requests: decoded, batched across requests, and answered.

There is one thread for each core, and each does what is most useful at the moment: it computes a
batch if a full one is decoded or nothing is left to decode, else it decodes an image. So no image
waits for others to come, images that wait anyway are answered together, and no core has two
threads. An image alone, while all other threads rest, is computed on every core.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart_predict.decode import UnreadableImageError, decode_image
from headstart_predict.errors import DataError
from headstart_predict.serving.hosting import Hosted
from headstart_predict.serving.metrics import Metrics
from headstart_predict.serving.problems import busy
from headstart_predict.serving.settings import Limits

_SMOOTHING = 0.05  # of the mean times of an image
_DECODING_S = 0.005  # a first guess

Picture = bytes | np.ndarray
Outcome = np.ndarray | DataError


@dataclass
class _Order:
    """The images of one request. outcomes: logits (classes,), or why there are none."""

    hosted: Hosted
    outcomes: list[Outcome | Exception | None]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    left: int = field(default=0)


@dataclass
class _Image:
    order: _Order
    place: int
    content: bytes = b""
    pixels: np.ndarray | None = None


class Desk:
    """Answers images on `threads` threads of its own."""

    def __init__(self, threads: int, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._encoded: deque[_Image] = deque()
        self._decoded: deque[_Image] = deque()
        self._ready = threading.Condition()
        self._resting = self._threads = threads
        self._stopped = False
        # Of one image on one thread.
        self._decoding, self._computing = _DECODING_S, 0.0
        for number in range(threads):
            threading.Thread(target=self._work, name=f"desk-{number}", daemon=True).start()

    @property
    def mean(self) -> float:
        """Seconds of one image on one thread, lately."""
        return self._decoding + self._computing

    @property
    def wait(self) -> float:
        """Seconds that a further image would wait for its turn, as far as can be foreseen."""
        return (len(self._encoded) + len(self._decoded)) * self.mean / self._threads

    def admit(self) -> None:
        """Raises RequestError where an image would have to wait for too long."""
        if (wait := self.wait) > self._limits.queue:
            raise busy(wait)

    async def answer(self, hosted: Hosted, pictures: Sequence[Picture]) -> list[Outcome]:
        """Logits (classes,) for each picture, or the error of one that cannot be read.

        pictures: the content of an image file, or pixels, uint8 (side, side, 3). Raises
        RequestError where they would have to wait for too long."""
        self.admit()
        loop = asyncio.get_running_loop()
        order = _Order(hosted, [None] * len(pictures), loop, loop.create_future(), len(pictures))
        with self._ready:
            for place, picture in enumerate(pictures):
                if isinstance(picture, bytes):
                    self._encoded.append(_Image(order, place, content=picture))
                else:
                    self._decoded.append(_Image(order, place, pixels=picture))
            self._ready.notify(len(pictures))
        self._metrics.waiting.inc(len(pictures))
        try:
            await order.done
        finally:
            self._metrics.waiting.dec(len(pictures))
        for outcome in order.outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, DataError):
                raise outcome
        return order.outcomes  # type: ignore[return-value]  # all are there

    def stop(self) -> None:
        """End the threads when nothing is left to do."""
        with self._ready:
            self._stopped = True
            self._ready.notify_all()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._encoded and not self._decoded:
                    if self._stopped:
                        return
                    self._ready.wait()
                batch = self._take_batch()
                image = None if batch else self._encoded.popleft()
                rests = self._resting == self._threads and not self._encoded
                alone = len(batch) == 1 and rests and batch[0].order.hosted.spread
                self._resting -= 1
            try:
                if image is not None:
                    self._decode(image)
                else:
                    self._compute(batch, alone=alone)
            finally:
                with self._ready:
                    self._resting += 1

    def _take_batch(self) -> list[_Image]:
        """What is to be computed now, of one version; nothing where it is better to decode."""
        if not self._decoded:
            return []
        hosted = self._decoded[0].order.hosted
        if self._encoded and sum(i.order.hosted is hosted for i in self._decoded) < hosted.batch:
            return []
        batch: list[_Image] = []
        others: list[_Image] = []
        while self._decoded and len(batch) < hosted.batch:
            image = self._decoded.popleft()
            (batch if image.order.hosted is hosted else others).append(image)
        self._decoded.extendleft(reversed(others))
        return batch

    def _decode(self, image: _Image) -> None:
        predictor = image.order.hosted.predictor
        began = time.perf_counter()
        try:
            image.pixels = decode_image(image.content, predictor.side, predictor.framing)
        except Exception as error:
            self._settle([image], [error])
            return
        finally:
            image.content = b""
            self._decoding += _SMOOTHING * (time.perf_counter() - began - self._decoding)
        with self._ready:
            self._decoded.append(image)
            if len(self._decoded) + len(self._encoded) > 1:  # else this thread goes on with it
                self._ready.notify()

    def _compute(self, batch: list[_Image], *, alone: bool) -> None:
        predictor = batch[0].order.hosted.predictor
        compute = predictor.logits if alone else predictor.logits_of_many
        began = time.perf_counter()
        try:
            pixels = np.stack([image.pixels for image in batch if image.pixels is not None])
            outcomes: Sequence[np.ndarray | Exception] = list(compute(pixels))
        except Exception as error:  # each of them shall hear of it
            outcomes = [error] * len(batch)
        seconds = (time.perf_counter() - began) / len(batch)
        self._computing += _SMOOTHING * (seconds - self._computing)
        self._metrics.batch.observe(len(batch))
        self._settle(batch, outcomes)

    def _settle(self, images: list[_Image], outcomes: Sequence[np.ndarray | Exception]) -> None:
        finished: list[_Order] = []
        with self._ready:
            for image, outcome in zip(images, outcomes, strict=True):
                image.order.outcomes[image.place] = outcome
                image.order.left -= 1
                if not image.order.left:
                    finished.append(image.order)
        for order in finished:
            order.loop.call_soon_threadsafe(_finish, order.done)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():  # the client may have gone
        done.set_result(None)


def unreadable(error: DataError) -> str:
    """Why an image cannot be read, without the name that it does not have."""
    return error.reason if isinstance(error, UnreadableImageError) else str(error)
