"""One comparison from start to end: what is tested, on which pictures, and what is too low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.engines.engine_store import EngineStore
from foveate.engines.errors import ConfigError
from foveate.engines.layer_errors import Bisection, bisect_layers, comparable_reference
from foveate.engines.onnx_graph import graph_from_file
from foveate.models.accuracy import MOST_DROP, Accuracy, drops
from foveate.models.agreement import Agreement
from foveate.models.package import PreparedModel
from foveate.tools.calibration_pictures import PlacedPicture, placed_pictures
from foveate.tools.labelled_pictures import LabelledPictures, labelled_pictures
from foveate.tools.verification import (
    Conversion,
    PictureSource,
    Tested,
    built_engine,
    compare,
    converted,
    given_graph,
    judge,
)

__all__ = ["Comparer", "Comparison"]

_MOST_PICTURES = 64
_BISECTED_PICTURES = 8
"""Errors of layers are means over many values: few pictures tell them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison showed."""

    precision: str
    """Of what was tested."""
    judged_as: str
    """The precision whose thresholds hold."""
    exclude: tuple[str, ...]
    """The nodes that stayed float."""
    agreement: Agreement | None
    """On pictures without labels."""
    accuracy: tuple[Accuracy, Accuracy] | None
    """On labelled pictures: of the reference, and of what was tested."""
    bisection: Bisection | None
    failures: list[str]
    """What is too low, in words."""

    @property
    def counts(self) -> str:
        if self.accuracy is not None:
            return f"{self.accuracy[0].labelled} labels in {self.accuracy[0].frames} pictures"
        assert self.agreement is not None
        return f"{self.agreement.compared} compared in {self.agreement.frames} pictures"


class Comparer:
    """Takes what is to be tested, then compares it with a reference in fp32."""

    def __init__(
        self,
        model: PreparedModel,
        reference: PreparedModel,
        pictures: str | None,
        labelled: Path | None,
        calibration: str | None,
        limit: int | None,
        min_score: float | None,
    ) -> None:
        """Either `pictures` or `labelled` is given; without `calibration` some of them find int8's ranges.

        Raises: ConfigError where the labelled folder is none.
        """
        self._model, self._reference = model, reference
        self._min_score = min_score
        self._calibration = calibration
        self._source = None if pictures is None else PictureSource(pictures, calibration, limit or _MOST_PICTURES)
        self._ours = self._theirs = LabelledPictures((), ())
        if labelled is not None:
            self._ours, self._theirs = (
                labelled_pictures(labelled, each.labels).spread(limit) for each in (model, reference)
            )
        self._found: list[PlacedPicture] = []
        self._placed: list[PlacedPicture] | None = None
        self._tested: Tested | None = None

    def take_given(self, engine: str | None, target: str, store: EngineStore) -> None:
        """Test a graph in a file, an engine of the store by its key, or the model as it is.

        Raises: BuildFailed for no such file, EngineError for no such engine, PlanMismatch for one that cannot run here.
        """
        if self._calibration is not None:  # to tell a rescaled channel from an error
            self._found = placed_pictures(self._calibration, self._model, _MOST_PICTURES)
        if engine is None:
            self._tested = given_graph(self._model, self._model.onnx_path, "onnxruntime")
        elif engine.endswith(".onnx") or Path(engine).exists():
            self._tested = given_graph(self._model, Path(engine), target)
        else:
            self._tested = built_engine(self._model, engine, store)

    def take_converted(self, wish: Conversion) -> None:
        """Test the model in another precision. Raises: as `convert` does, ConfigError for too few pictures."""
        if wish.precision in ("int8", "fp8"):
            self._find_ranges()
        self._tested = converted(self._model, wish, self._found)

    def compared(self, precision: str | None, max_drop: float | None, *, bisect: bool) -> Comparison:
        """The figures, judged by the thresholds of a precision, or of what is tested.

        Raises: ConfigError where the pictures prove nothing; BuildFailed where layers cannot be compared.
        """
        assert self._tested is not None
        judged_as = precision or self._tested.precision
        agreed, right, failures = None, None, []
        if self._source is None:
            right = judge(self._reference, self._tested, self._ours, self._theirs, self._min_score)
            failures = drops(*right, MOST_DROP[judged_as] if max_drop is None else max_drop)
        else:
            pictures = self._source if self._placed is None else self._placed
            agreed = compare(self._reference, self._tested, pictures, self._min_score)
            failures = agreed.failures(judged_as)
        bisection = self._bisected(self._tested) if bisect else None
        return Comparison(self._tested.precision, judged_as, self._tested.exclude, agreed, right, bisection, failures)

    def _find_ranges(self) -> None:
        """Set pictures apart to find ranges with; the others judge."""
        if self._source is not None:
            self._found, self._placed = self._source.split(self._model)
        elif self._calibration is not None:
            self._found = placed_pictures(self._calibration, self._model, _MOST_PICTURES)
        else:
            calibration, self._ours = self._ours.split(_MOST_PICTURES)
            self._theirs = self._ours
            if not self._ours.paths:
                raise ConfigError("one labelled picture cannot both find ranges and judge them: add --calibration")
            self._found = list(calibration.placed(self._model))

    def _bisected(self, tested: Tested) -> Bisection:
        if tested.graph is None:
            raise ConfigError(
                "a built engine shows no layers: give the graph that it was compiled from, or --precision"
            )
        calibration = [each.row for each in self._found] if tested.precision == "int8" else []
        reference = comparable_reference(
            graph_from_file(self._model.onnx_path), tested.graph, target=tested.target, calibration=calibration
        )
        return bisect_layers(reference, tested.graph, [each.row for each in self._some_pictures()])

    def _some_pictures(self) -> Sequence[PlacedPicture]:
        if self._source is None:
            return list(self._ours.spread(_BISECTED_PICTURES).placed(self._model))
        placed = self._source.placed(self._model) if self._placed is None else self._placed
        return placed[:: -(-len(placed) // _BISECTED_PICTURES)]
