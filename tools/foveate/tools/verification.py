"""A model in another precision, an engine or another model, compared with a model in fp32 on real pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from foveate.engines.contract import Engine
from foveate.engines.engine_choice import engine_of_key
from foveate.engines.engine_store import EngineStore
from foveate.engines.errors import ConfigError
from foveate.engines.half_rounding import with_half_rounding
from foveate.engines.onnx_graph import OnnxGraph, graph_from_file
from foveate.engines.onnx_runtime import OnnxRuntimeEngine
from foveate.engines.precision import convert, precision_of, propose_exclude, sensitivity
from foveate.models.accuracy import Accuracy, accuracy
from foveate.models.agreement import Agreement, agreement, in_classes_of
from foveate.models.outputs import DecodeOptions, Output
from foveate.models.package import PreparedModel
from foveate.tools.calibration_pictures import PlacedPicture, placed_pictures
from foveate.tools.labelled_pictures import LabelledPictures

__all__ = [
    "Conversion",
    "PictureSource",
    "Tested",
    "answers",
    "built_engine",
    "compare",
    "converted",
    "engine_answers",
    "given_graph",
    "graph_answers",
    "judge",
    "worst_nodes",
]

_RANKING_PICTURES = 12
"""Enough to rank nodes; each node is run on all of them."""
_LEAST_CLASSES = 5
"""Of a classifier, whatever the manifest's limit, for the top 5."""
_LEAST_LABELLED_SCORE = 0.001
"""COCO's precision is over all recalls, also those that only doubtful boxes reach."""


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
                f"{self.judged} holds one picture, which cannot both find ranges and judge them: give more, or a "
                "second source"
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
class Tested:
    """What is compared: a graph of a model, or an engine built from it."""

    model: PreparedModel
    precision: str
    target: str
    """What the graph is for: ``onnxruntime`` or ``tensorrt``."""
    graph: OnnxGraph | None
    """None where it is a built engine."""
    engine: Engine | None = None
    exclude: tuple[str, ...] = ()
    """The nodes that stayed float."""

    def answers(self, pictures: Iterable[PlacedPicture], min_score: float | None = None) -> list[Output]:
        """What it says about each picture, decoded as when serving. Raises: EngineUnavailable, PlanMismatch."""
        if self.graph is not None:
            return graph_answers(self.model, self.graph, pictures, min_score, target=self.target)
        assert self.engine is not None
        with self.engine as engine:
            return engine_answers(self.model, engine, pictures, min_score)


def converted(model: PreparedModel, wish: Conversion, calibration: Sequence[PlacedPicture]) -> Tested:
    """A model in another precision. Raises: as `convert` does."""
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
    return Tested(model, wish.precision, wish.target, graph, exclude=exclude)


def given_graph(model: PreparedModel, path: Path, target: str) -> Tested:
    """A graph of a model that was converted before, or the model's own. Raises: BuildFailed if it cannot be read."""
    graph = graph_from_file(path)
    return Tested(model, precision_of(graph), target, graph)


def built_engine(model: PreparedModel, key: str, store: EngineStore) -> Tested:
    """An engine of the store by how its key begins. Raises: EngineError if there is none, PlanMismatch if not here."""
    chosen = engine_of_key(key, store, 1, accept_failed=True)
    engine = chosen.new_engine(model.manifest.name)
    return Tested(model, chosen.precision, chosen.backend, None, engine)


def compare(
    reference: PreparedModel, tested: Tested, source: PictureSource | Sequence[PlacedPicture], min_score: float | None
) -> Agreement:
    """How well what is tested agrees with a model in fp32, which may be another model, with labels of its own.

    Pictures that are placed already fit both. Raises: as `agreement` does.
    """
    here = source.placed(tested.model) if isinstance(source, PictureSource) else source
    there = source.placed(reference) if isinstance(source, PictureSource) else source
    said = [in_classes_of(each, tested.model.labels, reference.labels) for each in tested.answers(here, min_score)]
    return agreement(answers(reference, reference.onnx_path, there, min_score), said)


def judge(
    reference: PreparedModel, tested: Tested, ours: LabelledPictures, theirs: LabelledPictures, min_score: float | None
) -> tuple[Accuracy, Accuracy]:
    """How right a reference in fp32 is on labelled pictures, and how right what is tested is.

    `ours` are labelled in the classes of what is tested, `theirs` in the reference's. Raises: as `accuracy` does.
    """
    least = _LEAST_LABELLED_SCORE if min_score is None and reference.manifest.task == "detect" else min_score
    expected = answers(reference, reference.onnx_path, theirs.placed(reference), least)
    said = tested.answers(ours.placed(tested.model), least)
    return accuracy(theirs.truths, expected), accuracy(ours.truths, said)


def worst_nodes(model: PreparedModel, target: str, calibration: Sequence[PlacedPicture]) -> tuple[str, ...]:
    """The nodes that int8 had better leave alone, ranked on the pictures that find the ranges."""
    rows = [each.row for each in calibration]
    step = -(-len(rows) // _RANKING_PICTURES)
    return propose_exclude(sensitivity(graph_from_file(model.onnx_path), rows, rows[::step], target=target))


def answers(
    model: PreparedModel, graph: Path, pictures: Iterable[PlacedPicture], min_score: float | None = None
) -> list[Output]:
    """What a graph of a model says about each picture when ONNX Runtime serves it, decoded as when serving."""
    with OnnxRuntimeEngine(graph, name=model.manifest.name, max_batch=1) as engine:
        return engine_answers(model, engine, pictures, min_score)


def graph_answers(
    model: PreparedModel,
    graph: OnnxGraph,
    pictures: Iterable[PlacedPicture],
    min_score: float | None = None,
    *,
    target: str,
) -> list[Output]:
    """What a graph in memory says: as ONNX Runtime serves it, or, for another compiler, rounded as its types say.

    `target` is ``onnxruntime`` or ``tensorrt``.
    """
    served = target == "onnxruntime"
    with TemporaryDirectory(prefix="foveate-") as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes((graph if served else with_half_rounding(graph)).SerializeToString())
        with OnnxRuntimeEngine(path, name=model.manifest.name, max_batch=1, optimize=served) as engine:
            return engine_answers(model, engine, pictures, min_score)


def engine_answers(
    model: PreparedModel, engine: Engine, pictures: Iterable[PlacedPicture], min_score: float | None = None
) -> list[Output]:
    """What a loaded engine of a model says about each picture; takes one slot of it.

    A classifier's scores are all kept where no `min_score` is given: a best class is one however low it scores.
    """
    manifest = model.manifest
    least = manifest.min_score if manifest.task == "detect" else 0.0
    options = DecodeOptions(least if min_score is None else min_score, max(manifest.max_detections, _LEAST_CLASSES))
    slot = engine.new_slot()
    (pixels,) = slot.inputs.values()
    said = []
    for picture in pictures:
        pixels[0] = picture.row
        engine.run(slot, 1)
        outputs = {name: rows[0] for name, rows in slot.outputs.items()}
        said.append(model.decode(outputs, picture.placement, options))
    return said
