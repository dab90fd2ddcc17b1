"""timm's own pretrained weights, from the local hub cache or the network. Fails within seconds."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import WeightsError, explain_os_error
from headstart.files import cache_root
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.models.names import OUTSIDE_TIMM
from headstart.models.store import find_stored, load_torch_state, store_state

REACH_TIMEOUT_S = 4.0
_FILE = "model.safetensors"

# Addresses that did not answer, and that did, remembered for this process.
_unreachable: set[str] = set()
_answering: set[str] = set()


class HubUnreachableError(WeightsError):
    """No answer from the hub. Its text is only the reason; the caller adds what would work."""


@dataclass(frozen=True)
class HubWeights:
    """One set of weights, as timm's configuration describes it."""

    name: str  # without the tag
    tag: str
    hub_id: str | None
    url: str | None
    licence: str
    preprocess: Preprocess

    @property
    def identity(self) -> WeightsIdentity:
        source = self.hub_id or self.url or ""
        return WeightsIdentity("hub", self.name, self.tag, None, self.licence, source)


def describe_hub_weights(name: str) -> HubWeights | None:
    """timm's weights for NAME or NAME.TAG, or None where timm has none. Fetches nothing."""
    if name in OUTSIDE_TIMM:
        return None
    config = pretrained_config(name)
    if config is None or not (config.hf_hub_id or config.url):
        return None
    return HubWeights(
        name=name.partition(".")[0],
        tag=str(config.tag or ""),
        hub_id=config.hf_hub_id,
        url=config.url,
        licence=str(config.license or "unknown"),
        preprocess=_preprocess(config),
    )


def default_preprocess(name: str) -> Preprocess | None:
    """The preprocessing in timm's configuration of a network; None where timm has none."""
    config = pretrained_config(name)
    return None if config is None else _preprocess(config)


def pretrained_config(name: str) -> Any:
    """timm's PretrainedCfg of NAME or NAME.TAG, or None where it has none."""
    import timm

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise WeightsError(f"{name}: {error}") from error


def _preprocess(config: Any) -> Preprocess:
    size = int(config.input_size[-1])
    return Preprocess(size, tuple(config.mean), tuple(config.std), str(config.interpolation))


def find_cached(weights: HubWeights) -> Path | None:
    """The weights file if it is on this machine: in the hub cache, or in our store for a URL."""
    if weights.hub_id is None:
        return find_stored(weights.identity, weights.preprocess)
    from huggingface_hub import try_to_load_from_cache

    for folder in (None, _own_cache()):
        cached = try_to_load_from_cache(weights.hub_id, _FILE, cache_dir=folder)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _own_cache() -> Path | None:
    """The hub's folder inside $HEADSTART_CACHE; None, the hub's default, without that variable, or
    where HF_HOME or HF_HUB_CACHE is set."""
    if any(os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE")):
        return None
    return cache_root() / "hub" if os.environ.get("HEADSTART_CACHE") else None


def fetch(weights: HubWeights) -> Path:
    """The weights file, fetched if needed. Raises HubUnreachableError within seconds."""
    if (cached := find_cached(weights)) is not None:
        return cached
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    if weights.hub_id is None:
        return _fetch_url(weights)
    _reach(constants.ENDPOINT)
    return _fetch_hub(weights.hub_id)


def hub_answers() -> bool:
    """Whether the hub can be reached; asked once a process."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        _reach(constants.ENDPOINT)
    except HubUnreachableError:
        return False
    return True


def _reach(endpoint: str) -> None:
    """Check once, within seconds, that the hub answers: its own client retries for minutes."""
    if endpoint in _answering:
        return
    if endpoint in _unreachable:
        raise HubUnreachableError("no hub can be reached")
    from huggingface_hub import get_session

    answered: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=REACH_TIMEOUT_S)  # any status is an answer
        except Exception:  # the client may be requests or httpx, each with errors of its own
            return
        answered.append(True)

    # In a thread, because looking up a host name has no time-out of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REACH_TIMEOUT_S)
    if not answered:
        _unreachable.add(endpoint)
        raise HubUnreachableError("no hub can be reached")
    _answering.add(endpoint)


def _fetch_hub(hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            hf_hub_download(hub_id, _FILE, cache_dir=_own_cache(), etag_timeout=REACH_TIMEOUT_S)
        )
    except LocalEntryNotFoundError as error:  # the client's error when the network is lost
        raise HubUnreachableError("the hub stopped answering") from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        first = str(error).strip().splitlines()[0]
        raise WeightsError(f"the hub does not give {hub_id}/{_FILE}: {first}") from error
    except Exception as error:
        if isinstance(error, OSError) and (line := explain_os_error(error)):
            raise WeightsError(f"weights: {line}") from error
        # Lost in the middle of the file: the client's errors are those of requests or httpx.
        raise HubUnreachableError(f"the hub stopped answering ({type(error).__name__})") from error


def _fetch_url(weights: HubWeights) -> Path:
    """A torch file that timm gives by URL only, kept in our store as safetensors."""
    url = weights.url or ""
    if not url.endswith((".pth", ".pt")):
        raise WeightsError(f"{weights.name}.{weights.tag}: cannot read the format of {url}")
    try:
        with urllib.request.urlopen(url, timeout=REACH_TIMEOUT_S) as answer:
            content = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise HubUnreachableError(f"{url} cannot be reached") from error
    # torch's convention: the file's name ends in the first digits of its SHA-256.
    stated = re.search(r"-([0-9a-f]{8,})\.pth?$", url)
    if stated and not hashlib.sha256(content).hexdigest().startswith(stated[1]):
        raise WeightsError(f"{url}: its SHA-256 does not begin with {stated[1]}: not opened")
    return store_state(weights.identity, weights.preprocess, load_torch_state(content, url))
