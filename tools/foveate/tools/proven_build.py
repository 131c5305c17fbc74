"""An engine that is built, and proven before it counts: below the bar nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from foveate.engines.build import build_engine
from foveate.engines.build_options import BuildOptions
from foveate.engines.contract import Engine
from foveate.engines.engine_choice import engine_of_key
from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import BuildFailed, ConfigError, EngineUnavailable, PlanMismatch, RunFailed
from foveate.engines.onnx_graph import OnnxGraph, graph_from_file
from foveate.engines.tensorrt_library import BuildProgress
from foveate.models.package import PreparedModel
from foveate.tools.calibration_pictures import PlacedPicture
from foveate.tools.proof import Proof, Prover, not_proven
from foveate.tools.verification import PictureSource, worst_nodes

__all__ = ["BuildPictures", "ProvenBuild", "ProvenBuilder", "running_here"]


@dataclass(frozen=True, slots=True)
class BuildPictures:
    """Pictures of a build: some find int8's and fp8's ranges, others judge the engine; none does both."""

    judged: str | None
    """A folder or a video to judge by; None: every other picture of `calibration`."""
    calibration: str | None
    most: int
    proves: bool = True
    """Whether pictures are to be judged by at all."""

    def split(self, model: PreparedModel) -> tuple[list[PlacedPicture], list[PlacedPicture]]:
        """Pictures to calibrate with and other ones to judge by. Raises: ConfigError as `placed_pictures`."""
        judged, calibration = self.judged if self.proves else None, self.calibration
        if calibration is None:
            return [], [] if judged is None else PictureSource(judged, None, self.most).placed(model)
        if not self.proves:
            return PictureSource(calibration, None, self.most).placed(model), []
        return PictureSource(judged or calibration, calibration if judged else None, self.most).split(model)


@dataclass(frozen=True, slots=True)
class ProvenBuild:
    """An engine that is in the store, and what is known of its accuracy."""

    engine: BuiltEngine
    proof: Proof | None
    """None where nothing was compared now: it was before, or nobody gave pictures, or the graph is the model's own."""
    fresh: bool
    """Whether it was built now."""


class ProvenBuilder:
    """Builds engines of one model, and compares each with the model in fp32 before it counts."""

    def __init__(
        self, model: PreparedModel, pictures: BuildPictures, store: EngineStore, proposes: bool = False
    ) -> None:
        """`proposes`: whether the nodes that lose most in int8 are found and left out as well.

        Raises: ConfigError where the pictures cannot be read.
        """
        self._model = model
        self._proposes = proposes
        self._store = store
        self._calibration, self._judged = pictures.split(model)
        self._prover = Prover(model, self._judged)

    def build(
        self,
        options: BuildOptions,
        *,
        accept: bool = False,
        force: bool = False,
        on_progress: BuildProgress | None = None,
    ) -> ProvenBuild:
        """The engine, built if the store does not have it, and proven if there are pictures to judge by.

        The converted graph is compared before it is compiled, and the engine itself after that where it can run here.
        Raises: BuildFailed where it is below the bar and not accepted, and nothing is kept then; as `build_engine`.
        """
        options = self._with_proposed(options)
        proofs: list[Proof] = []
        fresh: list[bool] = []

        def prove(graph: OnnxGraph) -> dict[str, Any] | None:
            fresh.append(True)
            return self._accuracy_of(graph, options, accept, proofs)

        rows = [each.row for each in self._calibration]
        built = build_engine(
            self._model.onnx_path,
            self._model.manifest.name,
            options,
            self._store,
            calibration=rows if options.quantised else (),
            on_progress=on_progress,
            prove=prove,
            force=force,
        )
        if not fresh:
            built = self._proven_again(built, options, accept, proofs)
        built = self._proven_by_engine(built, options, accept, proofs, always=bool(fresh))
        return ProvenBuild(built, proofs[-1] if proofs else None, bool(fresh))

    def _with_proposed(self, options: BuildOptions) -> BuildOptions:
        if not self._proposes or options.precision != "int8":
            return options
        worst = worst_nodes(self._model, options.graph_target, self._calibration)
        return replace(options, exclude=tuple(dict.fromkeys((*options.exclude, *worst))))

    def _accuracy_of(
        self, graph: OnnxGraph, options: BuildOptions, accept: bool, proofs: list[Proof]
    ) -> dict[str, Any] | None:
        """What the sidecar says before the engine itself could run. fp32 is the graph that all are compared with."""
        if options.precision == "fp32":
            return None
        if not self._judged:
            return not_proven("no pictures")
        try:
            proof = self._prover.of_graph(graph, options.precision, served=options.backend == "onnxruntime")
        except PlanMismatch:
            return not_proven(f"ONNX Runtime has no {options.precision} on the CPU")
        proofs.append(proof)
        return _accepted(proof, accept)

    def _proven_again(
        self, built: BuiltEngine, options: BuildOptions, accept: bool, proofs: list[Proof]
    ) -> BuiltEngine:
        """An engine of the store, compared now if nobody did it before."""
        if built.record.agrees is False and not accept:
            failures = (built.record.accuracy or {}).get("failures", [])
            raise BuildFailed(
                f"the engine {built.key[:12]} in the store was accepted below the bar ({'; '.join(failures)}): add "
                "--accept once more, or build another precision"
            )
        if built.record.agrees is not None or not self._judged or options.precision == "fp32":
            return built
        with self._removed_if_refused(built):
            accuracy = self._accuracy_of(self._graph_of(built, options), options, accept, proofs)
        return built if accuracy is None else self._store.annotate(built.key, accuracy=accuracy)

    def _graph_of(self, built: BuiltEngine, options: BuildOptions) -> OnnxGraph:
        if options.backend == "onnxruntime":
            return graph_from_file(built.path)
        from foveate.engines.precision import convert

        return convert(
            graph_from_file(self._model.onnx_path),
            options.precision,
            target=options.graph_target,
            calibration=[each.row for each in self._calibration],
            exclude=options.exclude,
        )

    def _proven_by_engine(
        self, built: BuiltEngine, options: BuildOptions, accept: bool, proofs: list[Proof], *, always: bool
    ) -> BuiltEngine:
        """What the compiler made of the graph, where it can run here; ONNX Runtime ran it already."""
        if options.backend == "onnxruntime" or not self._judged or not (always or proofs):
            return built
        with self._removed_if_refused(built):
            with running_here(built, self._store, 1) as engine:
                if engine is None:
                    return built
                proofs.append(self._prover.of_engine(engine, options.precision))
            accuracy = _accepted(proofs[-1], accept)
        return self._store.annotate(built.key, accuracy=accuracy)

    @contextmanager
    def _removed_if_refused(self, built: BuiltEngine) -> Iterator[None]:
        try:
            yield
        except (BuildFailed, RunFailed):
            self._store.remove(built.key)
            raise


@contextmanager
def running_here(built: BuiltEngine, store: EngineStore, max_batch: int) -> Iterator[Engine | None]:
    """The engine, loaded, or None where its backend, its library or its GPU is not here."""
    engine: Engine | None = None
    try:
        chosen = engine_of_key(built.key, store, max_batch, accept_failed=True)
        made = chosen.new_engine(built.record.name)
        made.load()
        engine = made
    except (ConfigError, EngineUnavailable, PlanMismatch):
        pass  # not here: what it was compiled from is judged instead
    try:
        yield engine
    finally:
        if engine is not None:
            engine.close()


def _accepted(proof: Proof, accept: bool) -> dict[str, Any]:
    if not accept:
        proof.require()
    return proof.record()
