"""The Hugging Face hub: whether it can be reached, and the errors that reading from it raises."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from compositional.core.errors import UserError
from compositional.core.servers import is_url

logger = logging.getLogger(__name__)


def use_cache_without_network() -> None:
    """Switch the hub's libraries to their cache if the hub can't be reached. Otherwise they would retry for minutes.

    If the user has set HF_HUB_OFFLINE, it decides instead. The libraries read it on import, so call this before.

    Raises UserError for an HF_ENDPOINT that is no address.
    """
    if is_offline() or "HF_HUB_OFFLINE" in os.environ or "huggingface_hub" in sys.modules:
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not is_url(endpoint):
        raise UserError(f"HF_ENDPOINT {endpoint}: not an address such as https://huggingface.co")
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=10):
            return
    except HTTPError:  # the hub answers, so it can be reached
        return
    except (OSError, HTTPException, UnicodeError):  # the last: a name that no host can have
        os.environ["HF_HUB_OFFLINE"] = "1"
        logger.info("%s can't be reached: using only local folders and earlier downloads", endpoint)


def is_offline() -> bool:
    """Whether the hub's libraries use only their cache, by the environment, which they read as this does."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")


def is_cached(hub_id: str, files: Iterable[str]) -> bool:
    """Whether files of a model's main branch are all in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(hub_id, file), str) for file in files)


def hub_errors() -> tuple[type[Exception], ...]:
    """The exceptions that reading from the hub may raise. The hub's own errors derive from those of its HTTP library."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *HfHubHTTPError.__bases__)
