"""Proof that an engine says what its model says in fp32: on real pictures, by the thresholds of its precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from foveate.engines.contract import Engine
from foveate.engines.errors import BuildFailed
from foveate.engines.onnx_graph import OnnxGraph
from foveate.models.agreement import Agreement, agreement
from foveate.models.outputs import Output
from foveate.models.package import PreparedModel
from foveate.tools.calibration_pictures import PlacedPicture
from foveate.tools.verification import answers, engine_answers, graph_answers

__all__ = ["BelowBar", "Proof", "Prover", "not_proven"]


class BelowBar(BuildFailed):
    """An engine agrees with fp32 less than its precision must."""

    def __init__(self, message: str, proof: Proof) -> None:
        super().__init__(message)
        self.proof = proof


@dataclass(frozen=True, slots=True)
class Proof:
    """How far an engine, or the graph that it is compiled from, agrees with fp32."""

    precision: str
    by: str
    """What was run: ``engine on cuda:0``, or ``graph on onnxruntime`` where the engine cannot run here."""
    agreement: Agreement

    @property
    def failures(self) -> list[str]:
        """What is below the bar of the precision, in words."""
        return self.agreement.failures(self.precision)

    def require(self) -> None:
        """Raises: BelowBar naming each figure that is below the bar."""
        if self.failures:
            raise BelowBar(
                f"{self.precision} agrees too little with fp32 ({'; '.join(self.failures)}), so nothing was kept: take "
                "another precision, look for the layer with `foveate verify --bisect`, or keep it with --accept",
                self,
            )

    def record(self) -> dict[str, Any]:
        """The proof as an engine's sidecar keeps it."""
        failures = self.failures
        summary = self.agreement.summary()
        return {
            "summary": f"below the bar: {summary}" if failures else summary,
            "failures": failures,
            "accepted": bool(failures),  # without --accept there would be no engine to write this beside
            "by": self.by,
            **asdict(self.agreement),
        }


def not_proven(why: str) -> dict[str, Any]:
    """What a sidecar says of an engine that nobody has compared with its model."""
    return {"summary": f"not proven: {why}", "proven": False}


class Prover:
    """Compares engines and graphs of one model with the model in fp32, which runs once."""

    def __init__(self, model: PreparedModel, pictures: Sequence[PlacedPicture]) -> None:
        """`pictures` are none that an engine was calibrated with."""
        self._model = model
        self._pictures = pictures

    def of_graph(self, graph: OnnxGraph, precision: str, *, served: bool) -> Proof:
        """How far a converted graph agrees on ONNX Runtime; `served` is whether that is what serves it.

        Raises: PlanMismatch where ONNX Runtime cannot run it; as `agreement`.
        """
        target = "onnxruntime" if served else "tensorrt"
        said = graph_answers(self._model, graph, self._pictures, target=target)
        by = "engine on cpu" if served else "graph on onnxruntime"
        return Proof(precision, by, agreement(self._expected, said))

    def of_engine(self, engine: Engine, precision: str) -> Proof:
        """How far a loaded engine agrees. Raises: RunFailed, and as `agreement`."""
        said = engine_answers(self._model, engine, self._pictures)
        return Proof(precision, f"engine on {engine.info.device}", agreement(self._expected, said))

    @cached_property
    def _expected(self) -> list[Output]:
        return answers(self._model, self._model.onnx_path, self._pictures)
