"""Where Hugging Face repositories are and as whom: the user's own settings of the hub.

They are read from the environment, under the names that all of the hub's clients use, as pip's configuration is pip's:
a mirror or a token that is set up on a machine holds here as well.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from foveate.engines.errors import ConfigError
from foveate.models.sources import HuggingFaceSource

__all__ = ["HubSettings", "hub_settings"]

_DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class HubSettings:
    """A hub and who asks it."""

    endpoint: str
    token: str = field(default="", repr=False)

    def url(self, source: HuggingFaceSource) -> str:
        """Where that hub has the file."""
        revision, file = (
            urllib.parse.quote(part, safe=safe) for part, safe in ((source.revision, ""), (source.file, "/"))
        )
        return f"{self.endpoint}/{source.repo}/resolve/{revision}/{file}"


def hub_settings(environment: Mapping[str, str] = os.environ) -> HubSettings:
    """The hub of ``HF_ENDPOINT``, or the public one, and the token in ``HF_TOKEN``.

    Raises: ConfigError for an endpoint that is not https.
    """
    endpoint = environment.get("HF_ENDPOINT", "").strip().rstrip("/") or _DEFAULT_ENDPOINT
    if not endpoint.startswith("https://") or not urllib.parse.urlsplit(endpoint).hostname:
        raise ConfigError(f"HF_ENDPOINT is {endpoint!r}: a model is fetched over https, set it to https://HOST")
    return HubSettings(endpoint, environment.get("HF_TOKEN", "").strip())
