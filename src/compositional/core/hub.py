"""The Hugging Face hub: whether it can be reached, and the errors that reading from it raises."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


def use_cache_without_network() -> None:
    """Switch the hub's libraries to their cache if the hub can't be reached. Otherwise they would retry for minutes.

    If the user has set HF_HUB_OFFLINE, it decides instead. The libraries read it on import, so call this before.
    """
    if "HF_HUB_OFFLINE" in os.environ or "huggingface_hub" in sys.modules:
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=10):
            return
    except HTTPError:  # the hub answers, so it can be reached
        return
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        logger.info("%s can't be reached: using only local folders and earlier downloads", endpoint)


def hub_errors() -> tuple[type[Exception], ...]:
    """The exceptions that reading from the hub may raise. The hub's own errors derive from those of its HTTP library."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *HfHubHTTPError.__bases__)
