"""The hub provider: the local cache first, then the network, and seconds where there is none."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from headstart.errors import WeightsError
from headstart.models import hub
from headstart.models.hub import (
    HubUnreachableError,
    HubWeights,
    describe_hub_weights,
    fetch,
    find_cached,
)
from headstart.models.identity import Preprocess
from headstart.models.weights import describe_providers, locate_weights, read_state

TINY = "test_resnet"  # timm's network for tests, 0.5 million parameters
HUB_ID = "timm/test_resnet.r160_in1k"


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    monkeypatch.setattr(hub, "_unreachable", set())


def _closed_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port: int = closed.getsockname()[1]
    return port


def _random_state() -> dict[str, torch.Tensor]:
    """Seeded random parameters in the shape of the tiny network: nothing pretrained."""
    import timm

    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = timm.create_model(TINY).state_dict()
    return state


def _put_into_hub_cache(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """The layout that the hub's client leaves: a commit's snapshot and a ref to it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = folder / ("models--" + HUB_ID.replace("/", "--"))
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    save_file(state, snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


def test_a_cached_file_is_taken_offline(tmp_path: Path) -> None:
    assert describe_providers(TINY, describe_hub_weights(TINY)) == "hub"
    state = _random_state()
    path = _put_into_hub_cache(tmp_path / "hub", state)
    assert describe_providers(TINY, describe_hub_weights(TINY)) == "stored, hub"
    for provider in ("hub", "auto"):
        said: list[str] = []
        weights = locate_weights(TINY, provider, say=said.append)
        assert weights.path == path
        identity = weights.identity
        assert (identity.provider, identity.name, identity.tag) == ("hub", TINY, "r160_in1k")
        assert (identity.source, identity.licence) == (HUB_ID, "apache-2.0")
        sha256 = str(identity.sha256)
        assert said == [f"weights: {TINY} from hub ({HUB_ID}, sha256 {sha256[:8]}…)"]
        assert weights.preprocess.size == 160
    loaded = read_state(weights)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_an_unreachable_hub_fails_at_once_and_says_what_works() -> None:
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        locate_weights("mobilenetv2_100", "hub")
    assert time.monotonic() - started < 5
    assert str(caught.value) == (
        'no hub can be reached; for mobilenetv2_100 use weights = "registry" or weights = '
        '"file:PATH" or put model.safetensors of timm/mobilenetv2_100.ra_in1k into the hub cache'
    )


def test_a_silent_hub_is_given_up_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener accepts and never answers, like a firewall that drops packets."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "REACH_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        silent.setblocking(False)
        asked = []
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(HubUnreachableError, match="no hub can be reached"):
                fetch(_hub_weights(HUB_ID))
            assert time.monotonic() - started < 9  # the hub's own client waits for ten seconds
            asked.append(len(list(_waiting(silent))))
    assert asked[0] > 0 and asked[1] == 0


def _waiting(server: socket.socket) -> Iterator[None]:
    """Once for each connection that nobody has accepted yet, of a server that does not block."""
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            yield


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_reach", lambda endpoint: pytest.fail("asked the network"))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set; for test_resnet use"):
        locate_weights(TINY, "hub")


def test_a_network_without_weights_or_with_an_unknown_tag() -> None:
    with pytest.raises(WeightsError, match=r"timm has no pretrained weights for efficientnetv2_s"):
        locate_weights("efficientnetv2_s", "auto")
    with pytest.raises(WeightsError, match="Invalid pretrained tag"):
        locate_weights("resnet50.nonsense", "hub")


def _hub_weights(hub_id: str | None, url: str | None = None) -> HubWeights:
    preprocess = Preprocess(32, (0.5,) * 3, (0.5,) * 3, "bicubic")
    return HubWeights("tiny", "tag", hub_id, url, "mit", preprocess)


@contextmanager
def _serve(files: dict[str, bytes]) -> Iterator[str]:
    """A loopback server of files by path, with the headers that a hub gives."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(lambda body: None)

        def do_GET(self) -> None:
            self._answer(lambda body: self.wfile.write(body))

        def _answer(self, send: Callable[[bytes], object]) -> None:
            body = files.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("ETag", '"0123456789abcdef"')
            self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            send(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


_FETCH = """
import sys
from headstart.errors import WeightsError
from headstart.models.hub import HubWeights, fetch
from headstart.models.identity import Preprocess
wants = Preprocess(32, (0.5,) * 3, (0.5,) * 3, "bicubic")
for hub_id in sys.argv[1:]:
    try:
        print(fetch(HubWeights("tiny", "tag", hub_id, None, "mit", wants)))
    except WeightsError as error:
        print(type(error).__name__, error)
"""


def test_a_hub_is_found_and_remembered_through_the_hubs_own_variables(tmp_path: Path) -> None:
    """In a process of its own, because the hub's client reads its variables when imported."""
    content = save({"a": torch.ones(3)})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def run(*hub_ids: str) -> list[str]:
        command = [sys.executable, "-c", _FETCH, *hub_ids]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.splitlines()

    with _serve({"/": b"", "/own/model/resolve/main/model.safetensors": content}) as address:
        environment["HF_ENDPOINT"] = address
        fetched, refused = run("own/model", "own/other")
    assert Path(fetched).read_bytes() == content
    assert Path(fetched).is_relative_to(tmp_path / "home" / "hub")
    assert refused.startswith("WeightsError the hub does not give own/other/model.safetensors")
    assert run("own/model", "own/other") == [
        fetched,
        "HubUnreachableError no hub can be reached",
    ]


def test_weights_that_timm_names_by_address(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(3)}}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    with _serve({"/w.pth": content, "/w-01234567.pth": content}) as address:
        weights = _hub_weights(None, f"{address}/w.pth")
        assert find_cached(weights) is None
        path = fetch(weights)
        with pytest.raises(WeightsError, match="does not begin with 01234567: not opened"):
            fetch(_hub_weights(None, f"{address}/w-01234567.pth"))
    assert find_cached(weights) == path == fetch(weights)
    with pytest.raises(HubUnreachableError, match="cannot be reached"):
        fetch(_hub_weights(None, f"{address}/gone.pth"))
    with pytest.raises(WeightsError, match="cannot read the format"):
        fetch(_hub_weights(None, f"{address}/w.npz"))
