"""The committed stubs are what the generator makes of the committed `.proto`."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

import pytest
from grpc_tools import protoc

from foveate.proto import vision_pb2

ROOT = Path(__file__).resolve().parents[2]
STUBS = ("vision_pb2.py", "vision_pb2.pyi", "vision_pb2_grpc.py")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}"]
    arguments += [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    assert protoc.main([*arguments, str(ROOT / "proto/foveate/proto/vision.proto")]) == 0
    return out / "foveate/proto"


@pytest.mark.parametrize("name", STUBS)
def test_committed_stub_equals_a_regeneration(regenerated: Path, name: str) -> None:
    committed = (ROOT / "proto/foveate/proto" / name).read_text(encoding="utf-8")
    assert committed == (regenerated / name).read_text(encoding="utf-8"), "run `make proto` and commit what it makes"


def test_every_field_and_value_is_commented() -> None:
    lines = (ROOT / "proto/foveate/proto/vision.proto").read_text(encoding="utf-8").splitlines()
    numbered = [line.strip() for line in lines if re.search(r" = \d+;", line) and "UNSPECIFIED" not in line]
    assert len(numbered) > 100
    assert not [line for line in numbered if not re.search(r"; +// \w", line)]


def test_the_package_is_versioned() -> None:
    assert vision_pb2.DESCRIPTOR.package == "foveate.v1"
