"""The layout of the sources: which way imports point, which libraries are seen where, what each module exports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("proto", "engines", "models", "service", "tools")
PACKAGES = {
    "proto": ROOT / "proto/foveate/proto",
    "engines": ROOT / "engines/foveate/engines",
    "models": ROOT / "models/foveate/models",
    "service": ROOT / "service/foveate/service",
    "client": ROOT / "service/foveate/client",
    "tools": ROOT / "tools/foveate/tools",
}
MAY_IMPORT = {
    "proto": set[str](),
    "engines": set[str](),
    "models": {"engines"},
    "service": {"engines", "models", "proto"},
    "client": {"proto"},
    "tools": {"engines", "models", "proto", "service", "client"},
}
# A library that is not named may be used anywhere.
SEEN_ONLY_IN = {
    "onnxruntime": {"engines"},
    "tensorrt": {"engines"},
    "tensorrt_rtx": {"engines"},
    "nvidia": {"engines"},
    "pycuda": {"engines"},
    "torch": {"engines", "models"},
    "pynvml": {"engines"},
    "cuda": {"engines"},
    "onnx": {"models", "engines"},
    "cv2": {
        "service/decode",
        "service/preview",
        "service/server",
        "service/ffmpeg_video",
        "tools/video_source",
        "tools/video_sink",
        "tools/drawing",
    },
    "simplejpeg": {"service/decode", "service/preview", "tools/watch/jpeg"},
    "aiohttp": {"service/http_server"},
    "prometheus_client": {"service/metrics_text"},
    "edgefirst": {"service/tracking"},
    "grpc": {
        "proto",
        "client",
        "service/edge",
        "service/connection",
        "service/server",
        "service/status",
    },
    "foveate.proto": {"proto", "client", "service/convert", "service/connection", "service/edge", "service/server"},
    "typer": {"tools"},
    "rich": {"tools"},
}


def _modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            if "_pb2" not in path.name:
                yield package, path


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively: use the whole name"
            assert node.module is not None
            yield node.module, node.lineno


MODULES = [pytest.param(package, path, id=str(path.relative_to(ROOT))) for package, path in _modules()]


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_imports_point_one_way(package: str, path: Path) -> None:
    allowed = MAY_IMPORT[package] | {package}
    for name, line in _imports(path):
        if name.startswith("foveate."):
            assert name.split(".")[1] in allowed, f"{path}:{line} imports {name}, {package} may import {allowed}"


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_libraries_are_seen_only_where_they_belong(package: str, path: Path) -> None:
    here = {package, f"{package}/{path.relative_to(PACKAGES[package]).with_suffix('').as_posix()}"}
    for name, line in _imports(path):
        for library, places in SEEN_ONLY_IN.items():
            if name == library or name.startswith(f"{library}."):
                assert here & places, f"{path}:{line} imports {name}, which belongs to {sorted(places)}"


def test_every_guarded_place_exists() -> None:
    for places in SEEN_ONLY_IN.values():
        for place in places:
            package, _, module = place.partition("/")
            assert not module or (PACKAGES[package] / f"{module}.py").is_file(), f"{place} is gone: mend this test"


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_the_namespace_has_no_init(root: str) -> None:
    assert not (ROOT / root / "foveate/__init__.py").exists(), "it would hide the other source roots"


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_modules_say_what_they_export(package: str, path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} has no docstring"
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]
    ]
    if package == "proto" or path.name == "__main__.py":
        return
    assert len(values) == 1, f"{path} has no __all__"
    names = ast.literal_eval(values[0])
    bound = _bound_names(tree)
    assert set(names) <= bound, f"{path}: __all__ names what is not there: {set(names) - bound}"


def _bound_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def test_the_python_floor_is_kept() -> None:
    assert sys.version_info >= (3, 11)
    for _, path in _modules():
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
