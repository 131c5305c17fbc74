"""The cameras' states as a file for other programs: whole at any moment, a few seconds old at most."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.engines.errors import ConfigError

__all__ = ["write_state"]


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file at once. Raises: ConfigError if it cannot be written."""
    beside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        beside.write_text(json.dumps({"at_unix_s": round(time.time(), 3), **state}, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write the state file {path}: {error.strerror}") from error
