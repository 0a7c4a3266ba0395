"""The Hugging Face hub: whether it can be reached, and a split of a data set on it."""

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
    """Where the hub can't be reached, let its libraries use their cache at once: they'd try again for minutes otherwise.

    HF_HUB_OFFLINE, where a user has set it, decides instead. The libraries read it when they are imported.
    """
    if "HF_HUB_OFFLINE" in os.environ or "huggingface_hub" in sys.modules:
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=10):
            return
    except HTTPError:  # it answers
        return
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        logger.info("%s can't be reached: only local folders and what was downloaded before are used", endpoint)


def hub_errors() -> tuple[type[Exception], ...]:
    """What reading from the hub may raise; its own errors derive from those of the HTTP library that it uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *HfHubHTTPError.__bases__)
