"""Which recordings are kept, so that a disk is not full one day."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["delete_oldest"]

_OURS = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?\.mp4")


def delete_oldest(folder: Path, keep_bytes: int) -> None:
    """Delete a camera's oldest recordings until those that are left take no more than `keep_bytes`.

    The newest is kept whatever its size, and files with other names are nobody's business. Raises: OSError if the
    folder cannot be read; a file that cannot be deleted is left.
    """
    recordings = sorted(
        ((path.stat().st_mtime_ns, path.stat().st_size, path) for path in folder.iterdir() if _is_ours(path)),
        reverse=True,
    )
    kept = 0
    for _, size, path in recordings:
        kept += size
        if kept > keep_bytes and path != recordings[0][2]:
            with suppress(OSError):
                path.unlink()


def _is_ours(path: Path) -> bool:
    return _OURS.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()
