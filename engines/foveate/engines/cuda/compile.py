"""CUDA C++ compiled to a GPU's own code by NVRTC, which needs neither a GPU nor a toolkit."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import platformdirs

from foveate.engines.atomic_files import write_file
from foveate.engines.errors import BuildFailed, EngineUnavailable

__all__ = ["KernelCache", "compile_cubin"]

_OPTIONS = (
    "--std=c++17",
    "--fmad=false",  # every GPU, and the reference on the CPU, round the same way
)


def compile_cubin(source: str, compute_capability: str) -> bytes:
    """Kernels as a GPU such as ``sm_89`` runs them.

    Code for the GPU itself and not PTX: a driver older than the compiler refuses its PTX.
    Raises: EngineUnavailable without NVRTC or for a GPU that it does not know, BuildFailed with its log.
    """
    nvrtc = _load_nvrtc()
    program = _call(nvrtc.nvrtcCreateProgram, source.encode(), b"kernels.cu", 0, [], [])
    try:
        options = [f"--gpu-architecture={_architecture(nvrtc, compute_capability)}", *_OPTIONS]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if status != 0:
            raise BuildFailed(f"NVRTC could not compile the kernels for {compute_capability}: {_log(nvrtc, program)}")
        cubin = bytearray(_call(nvrtc.nvrtcGetCUBINSize, program))
        _call(nvrtc.nvrtcGetCUBIN, program, cubin)
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


class KernelCache:
    """Compiled kernels on disk, by their source and GPU. Making one touches no disk."""

    def __init__(self, root: Path | None = None) -> None:
        """`root` defaults to ``kernels`` in the user's cache folder for foveate."""
        self._root = root or platformdirs.user_cache_path("foveate") / "kernels"

    def cubin(self, source: str, compute_capability: str) -> bytes:
        """Kernels as a GPU runs them, compiled if they are not kept; a folder that cannot be written is no hindrance.

        Raises: as `compile_cubin`.
        """
        path = self._path(source, compute_capability)
        try:
            return path.read_bytes()
        except OSError:
            cubin = compile_cubin(source, compute_capability)
        with suppress(OSError):  # then they are compiled again next time, in a quarter of a second
            write_file(path, cubin)
        return cubin

    def _path(self, source: str, compute_capability: str) -> Path:
        made_from = "\0".join((source, *_OPTIONS))
        return self._root / hashlib.sha256(made_from.encode()).hexdigest() / f"{compute_capability}.cubin"


def _architecture(nvrtc: Any, compute_capability: str) -> str:
    """The GPU itself, or the nearest one before it of its generation, whose code it runs too."""
    wanted = int(compute_capability.removeprefix("sm_"))
    known = _call(nvrtc.nvrtcGetSupportedArchs)
    fitting = [each for each in known if each <= wanted and each // 10 == wanted // 10]
    if not fitting:
        names = ", ".join(f"sm_{each}" for each in known)
        raise EngineUnavailable(f"NVRTC compiles for {names}, not for {compute_capability}: install a newer one")
    return f"sm_{max(fitting)}"


def _load_nvrtc() -> Any:
    try:
        nvrtc = import_module("cuda.bindings.nvrtc")
        _call(nvrtc.nvrtcVersion)
    except (ImportError, RuntimeError) as error:  # RuntimeError: the bindings are there, the library is not
        raise EngineUnavailable(
            f"NVRTC is not usable here ({error}): install it with `pip install 'foveate[gpu]'`"
        ) from error
    return nvrtc


def _call(function: Any, *arguments: Any) -> Any:
    status, *values = function(*arguments)
    if status != 0:
        raise BuildFailed(f"{function.__name__} failed with {status.name}")
    return values[0] if len(values) == 1 else values


def _log(nvrtc: Any, program: Any) -> str:
    log = bytearray(_call(nvrtc.nvrtcGetProgramLogSize, program))
    _call(nvrtc.nvrtcGetProgramLog, program, log)
    return " ".join(log.rstrip(b"\0").decode(errors="replace").split())
