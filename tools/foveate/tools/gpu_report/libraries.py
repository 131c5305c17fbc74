"""Libraries that lie in a folder instead of being installed: unpacked, put on the paths, and loaded first."""

from __future__ import annotations

import ctypes
import lzma
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from foveate.engines.errors import ConfigError

__all__ = ["child_environment", "lay_out", "preload"]

_FOLDER_VARIABLE = "FOVEATE_REPORT_LIBRARIES"


def lay_out(source: Path, target: Path) -> list[str]:
    """Fill `target` with the libraries, packages and wheels of a folder, unpacked; returns their names.

    Files that end in ``.xz`` are decompressed, wheels unzipped, all others linked.
    Raises: ConfigError where there is no such folder, or a file in it is damaged.
    """
    if not source.is_dir():
        raise ConfigError(f"no folder {source}: --libraries is one that holds libtensorrt_rtx.so.1 and the like")
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        try:
            _lay_out_one(path.resolve(), path.name, target)
        except (EOFError, OSError, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path} cannot be unpacked ({error}): copy it again") from error
    return sorted(path.name for path in target.iterdir())


def _lay_out_one(path: Path, name: str, target: Path) -> None:
    if name.endswith(".whl"):
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(target)
    elif name.endswith(".xz"):
        with lzma.open(path) as packed, (target / name.removesuffix(".xz")).open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    else:
        (target / name).symlink_to(path)


def child_environment(base: Mapping[str, str], folder: Path | None, *, cpu: bool) -> dict[str, str]:
    """The environment of the jobs: the folder's libraries and packages before all others; no GPU for `cpu`."""
    environment = dict(base)
    if cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if folder is not None:
        places = [str(folder), *sorted({str(path.parent) for path in folder.glob("*/*.so*")})]
        environment[_FOLDER_VARIABLE] = str(folder)
        environment["LD_LIBRARY_PATH"] = _before(places, base.get("LD_LIBRARY_PATH", ""))
        environment["PYTHONPATH"] = _before([str(folder)], base.get("PYTHONPATH", ""))
    return environment


def _before(places: list[str], rest: str) -> str:
    return os.pathsep.join([*places, rest] if rest else places)


def preload(environment: Mapping[str, str]) -> dict[str, str]:
    """Load the folder's libraries into this process, so that bindings find them by name; returns what failed, and why.

    Again and again as long as one more loads: they need each other in an order that their names do not tell.
    """
    if _FOLDER_VARIABLE not in environment:
        return {}
    waiting = {path.name: path for path in sorted(Path(environment[_FOLDER_VARIABLE]).glob("lib*.so*"))}
    while waiting:
        failed = {name: complaint for name, path in waiting.items() if (complaint := _load(path))}
        if len(failed) == len(waiting):
            return failed
        waiting = {name: waiting[name] for name in failed}
    return {}


def _load(path: Path) -> str:
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return ""
