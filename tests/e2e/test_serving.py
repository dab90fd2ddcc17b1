"""The service over HTTP: its answers are the run's, whatever form the pictures come in."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.rundir.run import Run
from headstart_predict import load
from headstart_predict.bundle import open_bundle, read_golden
from headstart_predict.serving.decisions import summarise
from tests.serving import Reply, Server, form, served, until


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decisions") / "decisions.db"


@pytest.fixture(scope="module")
def server(
    published: Path, log: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("serving"), published, log=log, max_images=16) as started:
        yield started


@pytest.fixture(scope="module")
def pictures(published: Path) -> list[bytes]:
    """The bundle's golden images, as files."""
    bundle = open_bundle(published)
    return [bundle.read(name) for name in read_golden(bundle).files]


def probabilities(reply: Reply) -> np.ndarray:
    """(images, classes), by name."""
    rows = [{each["label"]: each["probability"] for each in a["top"]}
            for a in answers(reply)]  # fmt: skip
    return np.array([[row[name] for name in sorted(row)] for row in rows])


def answers(reply: Reply) -> list[dict[str, Any]]:
    assert reply.status == 200, reply.content
    found: list[dict[str, Any]] = reply.content["answers"]
    return found


def test_every_test_image_has_the_runs_answer(server: Server, fine_tuned: Run) -> None:
    test = fine_tuned.predictions("test")
    from headstart.deployment.export import run_images

    splits = run_images(fine_tuned)
    assert splits is not None

    def ask(row: int) -> np.ndarray:
        content = splits.test.as_file(row)
        return probabilities(server.ask("/v1/predict?top=10", content, "image/png"))[0]

    with ThreadPoolExecutor(8) as clients:
        found = np.stack(list(clients.map(ask, range(len(test.labels)))))
    order = np.argsort(fine_tuned.class_names)
    expected = test.tempered(fine_tuned.metrics.temperature).probabilities[:, order]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_a_picture_has_one_answer_in_every_form(server: Server, pictures: list[bytes]) -> None:
    picture = pictures[0]
    coded = base64.b64encode(picture).decode()
    replies = [
        server.ask("/v1/predict", picture, "image/png"),
        server.ask("/v1/predict", picture, "application/octet-stream"),
        server.ask("/v1/predict", *form(picture)),
        server.ask("/v1/predict", json.dumps({"image": coded}).encode(), "application/json"),
        server.ask("/v1/predict", json.dumps({"images": [coded]}).encode(), "application/json"),
    ]
    first = answers(replies[0])
    assert all(answers(reply) == first for reply in replies)
    [alone] = first
    assert alone["label"] == alone["labels"][0] == alone["top"][0]["label"]
    assert alone["probability"] == alone["top"][0]["probability"]
    assert len(alone["top"]) == 5


def test_many_pictures_keep_their_order(
    server: Server, published: Path, pictures: list[bytes]
) -> None:
    expected = [answer.label for answer in load(published).predict(pictures[:16])]
    found = answers(server.ask("/v1/predict", *form(*pictures[:16])))
    assert [each["label"] for each in found] == expected
    assert [each["image"] for each in found] == list(range(16))


def test_an_answer_says_which_model_gave_it(server: Server, pictures: list[bytes]) -> None:
    reply = server.ask("/v1/predict", pictures[0], x_request_id="abc-1")
    [model] = server.ask("/v1/models").content["models"]
    given = reply.content["model"]
    assert given == {key: model[key] for key in ("id", "version", "bundle_sha256")}
    assert given["bundle_sha256"].startswith(given["version"])
    assert reply.content["request_id"] == reply.headers["x-request-id"] == "abc-1"
    assert model["score"]["images"] == 60
    assert model["card"].startswith("#")
    assert sum(model["validation"]["classes"]) == pytest.approx(1)


def test_the_threshold_decides_what_is_sure(server: Server, pictures: list[bytes]) -> None:
    for threshold, sure in ((0, True), (1, False)):
        reply = server.ask(f"/v1/predict?threshold={threshold}&top=1", pictures[0])
        assert answers(reply)[0]["sure"] is sure
        assert len(answers(reply)[0]["top"]) == 1


def as_file(form: str, mode: str = "RGB", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.new(mode, (40, 30)).save(content, form, **options)
    return content.getvalue()


REFUSED = {
    "no image at all": (b"", "image/png", 422, "there is no image"),
    "a text": (b"hello, world", "image/jpeg", 415, "not in a supported image format"),
    "a picture cut short": (as_file("PNG")[:60], "image/png", 422, "cannot be read"),
    "another media type": (b"<svg/>", "text/html", 415, "content type"),
    "an empty form": (*form(), 422, "no image"),
    "a form without an edge": (b"x", "multipart/form-data", 400, "boundary"),
    "a form with another field": (*form(b"x", field_name="file"), 422, "field 'image'"),
    "too many images": (*form(*[as_file("PNG")] * 17), 422, "at most 16 images"),
    "JSON that is none": (b"{", "application/json", 422, "JSON"),
    "JSON with another key": (b'{"url": "http://x/y.png"}', "application/json", 422, "url"),
    "JSON with both keys": (b'{"image": "", "images": []}', "application/json", 422, "not both"),
    "no base64": (b'{"image": "%%%"}', "application/json", 422, "base64"),
    "an address in place of a picture": (
        b'{"image": "http://127.0.0.1/secret.png"}', "application/json", 422, "base64",
    ),
    "deeply nested JSON": (b'{"images":' + b"[" * 100_000, "application/json", 422, "JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_picture_is_a_problem(server: Server, case: str) -> None:
    body, media, status, says = REFUSED[case]
    reply = server.ask("/v1/predict", body, media)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert says in reply.content["detail"]
    assert "\n" not in reply.content["detail"]
    assert reply.content["status"] == status
    assert reply.content["request_id"] == reply.headers["x-request-id"]


def test_the_images_that_cannot_be_read_are_named(server: Server, pictures: list[bytes]) -> None:
    reply = server.ask("/v1/predict", *form(pictures[0], b"junk", pictures[1], pictures[2][:50]))
    assert reply.status == 422
    assert [each["image"] for each in reply.content["images"]] == [1, 3]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v1/predict?model=none", 404, "no such model"),
        ("/v1/predict?top=0", 422, "top"),
        ("/v1/predict?threshold=2", 422, "threshold"),
        ("/v1/predict?threshold=nan", 422, "threshold"),
        ("/v1/predict?cut=0.5", 409, "two classes"),
        ("/nothing", 404, "openapi.json"),
        ("/static/../app.py", 404, ""),
        ("/static/..%2fapp.py", 404, ""),
        ("/v1/models", 405, "method"),
    ],
)
def test_a_wrong_address_is_a_problem(server: Server, path: str, status: int, says: str) -> None:
    reply = server.ask(path, b"x")
    assert (reply.status, reply.headers["content-type"]) in (
        (status, "application/problem+json"),
        (405, "application/problem+json"),
    )
    assert says in reply.content["detail"] or reply.status == 405


def test_where_the_model_looked(server: Server, pictures: list[bytes]) -> None:
    reply = server.ask("/v1/explain", pictures[0])
    grid = np.array(reply.content["grid"])
    assert grid.shape == (8, 8)
    assert (grid.min(), grid.max()) >= (0, 1)
    [answer] = answers(server.ask("/v1/predict", pictures[0]))
    assert reply.content["label"] == answer["label"]
    square = Image.open(io.BytesIO(base64.b64decode(reply.content["square"])))
    assert np.array_equal(np.asarray(square), load_square(pictures[0]))
    assert server.ask("/v1/explain?label=none", pictures[0]).status == 404


def load_square(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_decisions_are_logged_without_pictures(
    server: Server, log: Path, pictures: list[bytes]
) -> None:
    def logged() -> int:
        return int(server.ask("/v1/decisions?hours=1").content["images"])

    before = until(lambda: logged() or 1)
    server.ask("/v1/predict?threshold=1", *form(*pictures[:4]))
    until(lambda: logged() >= before + 4)
    name = server.ask("/v1/models").content["models"][0]["id"]
    found = summarise(log, name, 0, parts=4)
    assert found["images"] == sum(each["images"] for each in found["classes"])
    assert found["unsure"] >= 4
    assert sum(found["confidence"]) == found["images"]
    assert not any(picture[:40] in log.read_bytes() for picture in pictures)


def test_the_log_names_no_picture(server: Server, pictures: list[bytes]) -> None:
    body, media = form(pictures[0])
    secret = body.replace(b'filename="p"', b'filename="holidays-secret.png"')
    server.ask("/v1/predict?note=secret-note", secret, media)
    until(lambda: server.lines()[-1].get("route") == "predict")
    line = server.lines()[-1]
    assert {"request_id", "method", "route", "status", "ms", "bytes", "images"} <= line.keys()
    assert "secret" not in server.log.read_text()


def test_prometheus_reads_the_numbers(server: Server) -> None:
    reply = server.ask("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    text = reply.content.decode()
    assert 'headstart_requests_total{route="predict",status="200"}' in text
    assert "headstart_images_waiting 0.0" in text


def test_a_page_of_another_address_may_not_ask(server: Server, pictures: list[bytes]) -> None:
    own = server.address
    assert server.ask("/v1/predict", pictures[0], origin=own).status == 200
    reply = server.ask("/v1/predict", pictures[0], origin="http://evil.example")
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers
    # DNS rebinding: the page's own name leads to this machine.
    assert server.ask("/v1/models", host="evil.example:80").status == 421
    assert "default-src 'none'" in server.ask("/").headers["content-security-policy"]


def test_a_page_that_is_allowed_may_ask(
    published: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    friend = "https://friend.example"
    token = tmp_path / "token"
    token.write_text("right-token\n")
    with served(tmp_path, published, origin=friend, token_file=token) as server:
        preflight = server.ask("/v1/predict", method="OPTIONS", origin=friend)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == friend
        for given in ("", "Bearer wrong-token", "Basic right-token", "Bearer right-token2"):
            reply = server.ask("/v1/predict", pictures[0], authorization=given)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        assert server.ask("/metrics").status == 401
        assert server.ask("/healthz").status == server.ask("/").status == 200
        right = {"authorization": "Bearer right-token", "origin": friend}
        reply = server.ask("/v1/predict", pictures[0], **right)
        assert answers(reply)
        assert reply.headers["access-control-allow-origin"] == friend
        assert "right-token" not in server.log.read_text()
