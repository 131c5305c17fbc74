"""The built-in catalog: model packages that come with Foveate, as manifests without weights.

What is listed and why stands in DESIGN.md beside this file.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from foveate.engines.errors import ModelError

__all__ = ["catalog_folder", "catalog_names"]

_FOLDER = Path(__file__).parent / "catalog"


def catalog_names() -> tuple[str, ...]:
    """The names in the catalog, sorted."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/model.toml")))


def catalog_folder(name: str) -> Path:
    """The folder of a catalog entry. Raises: ModelError, with the nearest names, if there is none."""
    known = catalog_names()
    if name in known:
        return _FOLDER / name
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`foveate models list` shows the names."
    raise ModelError(f"no model {name!r} in the catalog: {hint} A package of your own is named by its path, ./{name}")
