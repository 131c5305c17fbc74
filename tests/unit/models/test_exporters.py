"""Exports of a tiny network that torchvision is told about, and what is refused; test_exported_models has real ones."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from foveate.engines.errors import ChecksumMismatch, ConfigError, EngineUnavailable, ModelError
from foveate.models import exporters
from foveate.models.exporters import export_checkpoint, export_torchvision, require_exporter
from foveate.models.exporters.torch_library import import_torch
from foveate.models.manifest import InputSpec
from foveate.models.package import fetch_model, import_file, is_fetched, load_package, prepare
from foveate.models.sources import ExportSource, FileSource, TorchvisionSource
from foveate.models.store import ModelStore
from support.exported_models import require_torchvision
from support.onnx_models import run_onnx
from support.packages import tiny_classifier, write_package

pytestmark = pytest.mark.timeout(180)

SPEC = InputSpec(width_px=16, height_px=8, scale=1 / 255)
SOURCE = TorchvisionSource("foveate_tiny", "V1")
TORCHVISION = '"torchvision:foveate_tiny/V1"'


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def tiny_network(forward: Any = None) -> Any:
    import torch
    from torch import nn

    class Tiny(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.classes = nn.Linear(4, 3)

        def forward(self, image: torch.Tensor) -> Any:
            logits = self.classes(self.norm(self.conv(image)).relu().mean((2, 3)))
            return logits if forward is None else forward(logits)

    return Tiny()


@pytest.fixture
def torchvision_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchvision's models with nothing but tiny ones added for the time of a test, and a folder of checkpoints."""
    require_torchvision()
    import torch
    import torchvision.models
    from torchvision.models import _api

    monkeypatch.setattr(_api, "BUILTIN_MODELS", dict(_api.BUILTIN_MODELS))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return torchvision.models


def register(name: str = "foveate_tiny", *, url: str = "https://localhost:1/x-00000000.pth", **how: Any) -> None:
    from torchvision.models._api import Weights, WeightsEnum, register_model

    class TinyWeights(WeightsEnum):  # type: ignore[misc]
        V1 = Weights(url=url, transforms=lambda: None, meta={})

    def build(*, weights: TinyWeights | None = None, progress: bool = True) -> Any:
        network = tiny_network(**how)
        if weights is not None:
            network.load_state_dict(weights.get_state_dict(progress=progress, check_hash=True))
        return network

    build.__annotations__["weights"] = TinyWeights | None
    register_model(name)(build)


def put_checkpoint(folder: Path, content: bytes | None = None) -> str:
    """A checkpoint of the tiny network in torch's folder, and the address that it is from."""
    import torch

    path = folder / "tiny.pth"
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    torch.save(tiny_network().state_dict(), path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    if content is not None:
        path.write_bytes(content)
    return f"https://localhost:1/{path.rename(folder / f'tiny-{digits}.pth').name}"


def test_published_weights_are_exported_and_compute_the_same(
    tmp_path: Path, store: ModelStore, torchvision_models: Any
) -> None:
    import torch

    url = put_checkpoint(tmp_path / "hub" / "checkpoints")
    register(url=url)
    package = load_package(write_package(tmp_path / "package", content=b"", source=TORCHVISION))
    sha256 = fetch_model(package, store)
    model = onnx.load(store.blob_path(sha256))
    facts = {each.key: each.value for each in model.metadata_props}
    assert float(facts["foveate.max_difference"]) < 1e-4
    assert "foveate.random_weights" not in facts
    images = torch.randn(5, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    network = tiny_network().eval()
    network.load_state_dict(torch.load(tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]))
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(run_onnx(model, {"image": images.numpy()})["logits"], expected, atol=1e-5)
    assert is_fetched(package, store)
    prepared = prepare(package, store, fetch=False)
    assert not prepared.random_weights
    prepared.require_trained()


def test_random_weights_are_marked_and_never_taken_for_real_ones(
    tmp_path: Path, store: ModelStore, torchvision_models: Any
) -> None:
    register()
    package = load_package(write_package(tmp_path / "package", content=b"", source=TORCHVISION))
    fetch_model(package, store, random_weights=True)
    assert not is_fetched(package, store)
    prepared = prepare(package, store, fetch=False)
    assert prepared.random_weights
    with pytest.raises(ModelError, match=r"brightest has random weights.*foveate models fetch brightest"):
        prepared.require_trained()
    (tmp_path / "mine.onnx").write_bytes(tiny_classifier())
    import_file(package, store, tmp_path / "mine.onnx")
    assert not prepare(package, store, fetch=False).random_weights


def test_the_mark_stays_with_a_file_that_moves(tmp_path: Path, store: ModelStore, torchvision_models: Any) -> None:
    register()
    (tmp_path / "moved.onnx").write_bytes(export_torchvision(SOURCE, SPEC, random_weights=True).content)
    elsewhere = load_package(write_package(tmp_path / "package", content=(tmp_path / "moved.onnx").read_bytes()))
    assert prepare(elsewhere, store).random_weights
    assert prepare(elsewhere, store).random_weights  # also from the sidecar alone


def test_random_weights_are_the_same_every_time_and_no_pictures_alike(torchvision_models: Any) -> None:
    register()
    models = [onnx.load_from_string(export_torchvision(SOURCE, SPEC, random_weights=True).content) for _ in range(2)]
    images = np.random.default_rng(0).normal(size=(8, 3, 8, 16)).astype(np.float32)
    first, second = (run_onnx(model, {"image": images})["logits"] for model in models)
    np.testing.assert_array_equal(first, second)
    assert first.std(axis=0).min() > 0.05


def test_an_export_that_computes_something_else_is_refused(torchvision_models: Any) -> None:
    import torch

    register(forward=lambda logits: logits * 1.01 if torch.compiler.is_exporting() else logits)
    with pytest.raises(ModelError, match=r"logits differs by up to .* is allowed; nothing was kept"):
        export_torchvision(SOURCE, SPEC, random_weights=True)


def test_what_torch_cannot_export_is_told(torchvision_models: Any) -> None:
    register(forward=lambda logits: logits if float(logits.sum()) > 0 else -logits)
    with pytest.raises(ModelError, match=r"torch .* cannot export this network: "):
        export_torchvision(SOURCE, SPEC, random_weights=True)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_ctrl_c_leaves_nothing_behind(
    tmp_path: Path, store: ModelStore, scratch: Path, torchvision_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveate.models.exporters import onnx_program

    class Interrupted:
        @classmethod
        def from_file(cls, path: Path, **options: Any) -> None:
            assert path.is_relative_to(scratch)
            raise KeyboardInterrupt

    register()
    monkeypatch.setattr(onnx_program, "engine_class", lambda name: Interrupted)
    package = load_package(write_package(tmp_path / "package", content=b"", source=TORCHVISION))
    with pytest.raises(KeyboardInterrupt):
        fetch_model(package, store, random_weights=True)
    assert not list(scratch.iterdir())
    assert not store.root.exists()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, torchvision_models: Any) -> None:
    register(url=put_checkpoint(tmp_path / "hub" / "checkpoints", b"damaged"))
    with pytest.raises(ChecksumMismatch, match=r"tiny-.*\.pth: expected a sha256 that begins with"):
        export_torchvision(SOURCE, SPEC)


def test_weights_out_of_reach_say_where_a_copy_goes(tmp_path: Path, store: ModelStore, torchvision_models: Any) -> None:
    register()
    package = load_package(write_package(tmp_path / "package", content=b"", source=TORCHVISION))
    with pytest.raises(ModelError, match=r"could not be reached.*goes into .*checkpoints as x-00000000\.pth.*import"):
        fetch_model(package, store)


@pytest.mark.parametrize(
    ("name", "weights", "error", "complaint"),
    [
        ("resnet81", "V1", ConfigError, "no model 'resnet81': did you mean resnet18"),
        ("resnet18", "V9", ConfigError, r"no weights 'V9': choose one of IMAGENET1K_V1, DEFAULT"),
        ("fcn_resnet50", "DEFAULT", ModelError, "of its segmentation models"),
    ],
)
def test_a_name_that_is_not_exported_is_refused(
    name: str, weights: str, error: type[Exception], complaint: str, torchvision_models: Any
) -> None:
    with pytest.raises(error, match=complaint):
        export_torchvision(TorchvisionSource(name, weights), SPEC)


def test_a_detector_of_two_stages_is_refused_with_the_reason(torchvision_models: Any) -> None:
    source = TorchvisionSource("fasterrcnn_mobilenet_v3_large_320_fpn", "COCO_V1")
    with pytest.raises(ModelError, match=r"two stages.*RoiAlign.*take a detector of one stage"):
        export_torchvision(source, SPEC, random_weights=True)


@pytest.mark.parametrize("library", ["torch", "onnxscript"])
def test_without_torch_the_extra_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EngineUnavailable, match=rf"needs {library}.*pip install 'foveate\[export\]'"):
        import_torch()


def test_a_checkpoint_without_a_known_architecture_is_refused_before_it_is_fetched(
    tmp_path: Path, store: ModelStore
) -> None:
    package = load_package(
        write_package(tmp_path / "p", content=b"", source='"export:https://localhost:1/a.pth"', sha256=f'"{"0" * 64}"')
    )
    with pytest.raises(ModelError, match=r"no exporter for https://localhost:1/a\.pth.*models import"):
        fetch_model(package, store)
    with pytest.raises(ModelError, match="no exporter"):
        require_exporter(ExportSource(FileSource(tmp_path / "a.pth")))


def test_another_checkpoint_is_not_taken_for_the_known_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="does not hold the weights of EfficientNet-Lite0"):
        export_checkpoint(ExportSource(exporters._LITE0), tmp_path / "other.pth", SPEC)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save({"weight": print}, tmp_path / "code.pth")
    with pytest.raises(ModelError, match=r"code\.pth is not a checkpoint that holds weights alone: nothing in it"):
        export_checkpoint(ExportSource(exporters._LITE0), tmp_path / "code.pth", SPEC)
