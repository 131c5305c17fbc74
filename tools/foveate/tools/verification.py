"""A model in another precision, an engine's graph or another model, compared with a model in fp32 on real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from foveate.engines.errors import ConfigError
from foveate.engines.onnx_graph import graph_from_file
from foveate.engines.onnx_runtime import OnnxRuntimeEngine
from foveate.engines.precision import convert, precision_of, propose_exclude, sensitivity
from foveate.models.agreement import Agreement, agreement
from foveate.models.outputs import DecodeOptions, Output
from foveate.models.package import PreparedModel
from foveate.tools.calibration_pictures import PlacedPicture, placed_pictures

__all__ = ["Conversion", "PictureSource", "Verified", "answers", "compare_conversion", "compare_graphs", "worst_nodes"]

_RANKING_PICTURES = 12
"""Enough to rank nodes; each node is run on all of them."""
_LEAST_CLASSES = 5
"""Of a classifier, whatever the manifest's limit, for the top 5."""


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Folders or videos to compare on."""

    judged: str
    calibration: str | None
    """Others to find ranges with; None: every other one of `judged`, which then is not judged by."""
    most: int

    def placed(self, model: PreparedModel) -> list[PlacedPicture]:
        """Pictures to judge by, in the model's input."""
        return placed_pictures(self.judged, model, self.most)

    def split(self, model: PreparedModel) -> tuple[list[PlacedPicture], list[PlacedPicture]]:
        """Pictures to find ranges with and other ones to judge by. Raises: ConfigError for too few."""
        if self.calibration is not None:
            return placed_pictures(self.calibration, model, self.most), self.placed(model)
        both = placed_pictures(self.judged, model, 2 * self.most)
        if len(both) < 2:
            raise ConfigError(
                f"{self.judged} holds one picture, which cannot both find ranges and judge them: give more, or others "
                "with --calibration"
            )
        return both[::2], both[1::2]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a model is to be converted to before it is compared."""

    precision: str
    target: str
    exclude: tuple[str, ...] = ()
    proposes: bool = False
    """Whether the nodes that lose most are found and left out as well."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a comparison showed."""

    precision: str
    """Of what was tested."""
    exclude: tuple[str, ...]
    """The nodes that stayed float."""
    agreement: Agreement


def compare_conversion(
    model: PreparedModel, wish: Conversion, source: PictureSource, min_score: float | None = None
) -> Verified:
    """How well a model agrees with itself in another precision. Raises: as `convert` and `agreement` do."""
    calibration, judged = source.split(model) if wish.precision in ("int8", "fp8") else ([], source.placed(model))
    exclude = wish.exclude
    if wish.proposes:
        exclude = tuple(dict.fromkeys((*exclude, *worst_nodes(model, wish.target, calibration))))
    graph = convert(
        graph_from_file(model.onnx_path),
        wish.precision,
        target=wish.target,
        calibration=[each.row for each in calibration],
        exclude=exclude,
    )
    with TemporaryDirectory(prefix="foveate-") as folder:
        path = Path(folder) / "converted.onnx"
        path.write_bytes(graph.SerializeToString())
        said = answers(model, path, judged, min_score)
    return Verified(wish.precision, exclude, agreement(answers(model, model.onnx_path, judged, min_score), said))


def compare_graphs(
    reference: PreparedModel, model: PreparedModel, graph: Path, source: PictureSource, min_score: float | None = None
) -> Verified:
    """How well a graph of a model agrees with a reference, which may be another model."""
    said = answers(model, graph, source.placed(model), min_score)
    expected = answers(reference, reference.onnx_path, source.placed(reference), min_score)
    return Verified(precision_of(graph_from_file(graph)), (), agreement(expected, said))


def worst_nodes(model: PreparedModel, target: str, calibration: Sequence[PlacedPicture]) -> tuple[str, ...]:
    """The nodes that int8 had better leave alone, ranked on the pictures that find the ranges."""
    rows = [each.row for each in calibration]
    step = -(-len(rows) // _RANKING_PICTURES)
    return propose_exclude(sensitivity(graph_from_file(model.onnx_path), rows, rows[::step], target=target))


def answers(
    model: PreparedModel, graph: Path, pictures: Sequence[PlacedPicture], min_score: float | None = None
) -> list[Output]:
    """What a graph of a model says about each picture, decoded as when serving.

    A classifier's scores are all kept where no `min_score` is given: a best class is one however low it scores.
    """
    manifest = model.manifest
    least = manifest.min_score if manifest.task == "detect" else 0.0
    options = DecodeOptions(least if min_score is None else min_score, max(manifest.max_detections, _LEAST_CLASSES))
    with OnnxRuntimeEngine(graph, name=manifest.name, max_batch=1) as engine:
        slot = engine.new_slot()
        (pixels,) = slot.inputs.values()
        said = []
        for picture in pictures:
            pixels[0] = picture.row
            engine.run(slot, 1)
            outputs = {name: rows[0] for name, rows in slot.outputs.items()}
            said.append(model.decode(outputs, picture.placement, options))
    return said
