"""Kernels compiled by NVRTC for GPUs that are not here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foveate.engines import BuildFailed, EngineUnavailable
from foveate.engines.cuda import KernelCache, compile_cubin
from foveate.engines.cuda import compile as compiling
from foveate.engines.cuda.pictures import picture_source

SOURCE = 'extern "C" __global__ void nothing() {}'


@pytest.fixture(autouse=True)
def nvrtc() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")


@pytest.mark.parametrize("capability", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_picture_kernels_compile(capability: str) -> None:
    cubin = compile_cubin(picture_source(), capability)
    assert cubin.startswith(b"\x7fELF")
    assert b"place_rgb" in cubin
    assert b"place_nv12" in cubin


def test_a_gpu_between_two_gets_the_code_of_the_one_before() -> None:
    assert compile_cubin(SOURCE, "sm_105").startswith(b"\x7fELF")


def test_a_gpu_of_an_unknown_generation() -> None:
    with pytest.raises(EngineUnavailable, match=r"compiles for .*sm_90.*, not for sm_990"):
        compile_cubin(SOURCE, "sm_990")


def test_an_error_of_the_source_is_told() -> None:
    with pytest.raises(BuildFailed, match=r"for sm_89: .*expected a \";\""):
        compile_cubin("nonsense", "sm_89")


def test_without_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(EngineUnavailable, match=r"foveate\[gpu\]"):
        compile_cubin(SOURCE, "sm_89")


def test_kernels_are_compiled_once_for_a_source_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, str]] = []

    def note(source: str, capability: str) -> bytes:
        compiled.append((source, capability))
        return f"{source} for {capability}".encode()

    monkeypatch.setattr(compiling, "compile_cubin", note)
    for source, capability in [("a", "sm_80"), ("a", "sm_90"), ("b", "sm_80"), ("a", "sm_80"), ("b", "sm_80")]:
        assert KernelCache(tmp_path).cubin(source, capability) == f"{source} for {capability}".encode()
    assert compiled == [("a", "sm_80"), ("a", "sm_90"), ("b", "sm_80")]


def test_a_cache_that_cannot_be_written_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "compile_cubin", lambda source, capability: b"code")
    (tmp_path / "file").write_text("")
    assert KernelCache(tmp_path / "file").cubin("a", "sm_80") == b"code"
