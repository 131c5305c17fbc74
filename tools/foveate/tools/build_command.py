"""`foveate build`: compile a model into an engine, and prove that it says what the model says."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from foveate.engines.build_options import (
    BUILD_BACKENDS,
    BUILD_CALIBRATED_PRECISIONS,
    BUILD_PRECISIONS,
    BatchRange,
    BuildOptions,
    Target,
)
from foveate.engines.errors import ConfigError
from foveate.tools.console import failing_softly

if TYPE_CHECKING:
    from foveate.tools.precision_choice import Attempt
    from foveate.tools.proof import Proof
    from foveate.tools.proven_build import BuildPictures, ProvenBuild

__all__ = ["build"]

_AUTO = "auto"


@failing_softly()
def build(
    model: Annotated[str, typer.Argument(help="A catalog name, or the path of a package's folder.")],
    precision: Annotated[
        str,
        typer.Option(
            metavar="|".join((*BUILD_PRECISIONS, _AUTO)),
            help="What the network computes in; auto: the fastest that agrees with fp32.",
        ),
    ] = "fp32",
    backend: Annotated[
        str, typer.Option(metavar="|".join(BUILD_BACKENDS), help="What runs the engine; tensorrt needs the GPU here.")
    ] = "tensorrt_rtx",
    batch: Annotated[
        str, typer.Option(metavar="MIN:OPT:MAX", help="Batch sizes taken, and the one tuned for; N is 1:N:N.")
    ] = str(BatchRange()),
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="default, this (the GPU here), compute capabilities such as sm_80,sm_89, or with tensorrt "
            "ampere_plus or same_compute_capability.",
        ),
    ] = "default",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Also for later versions of the library (tensorrt only).")
    ] = False,
    pictures: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_VIDEO",
            help="Pictures to compare the engine with fp32 on. Default: with --calibration every other one of those, "
            "which then is not calibrated with.",
        ),
    ] = None,
    proof: Annotated[
        bool, typer.Option("--proof/--no-proof", help="Whether the engine is compared with fp32 before it is kept.")
    ] = True,
    accept: Annotated[
        bool, typer.Option("--accept", help="Keep an engine that agrees too little, marked as such.")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="FOLDER_OR_VIDEO", help="Pictures like those to be served, for int8 and fp8."),
    ] = None,
    calibration_pictures: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most pictures to calibrate with and to compare on.")
    ] = 64,
    int8_exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="A node that stays float in int8 and fp8; may be given again."),
    ] = None,
    propose_exclude: Annotated[
        bool,
        typer.Option("--propose-exclude", help="Find the nodes that lose most in int8 and leave them float as well."),
    ] = False,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most scratch memory of a layer. Default: the library's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if the engine is there already.")] = False,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what was built and reached; - for stdout.")
    ] = None,
    model_store: Annotated[
        Path | None, typer.Option("--model-store", metavar="DIR", help="Folder of fetched and prepared models.")
    ] = None,
    engine_store: Annotated[
        Path | None, typer.Option("--engine-store", metavar="DIR", help="Folder of built engines.")
    ] = None,
) -> None:
    """Compile a model into an engine, or find the one that was built before, and prove it on real pictures.

    An engine that agrees with fp32 less than its precision must is not kept, and the exit status is 1.
    tensorrt_rtx compiles on machines without a GPU too. Ctrl-C ends a build and keeps nothing of it.
    """
    _require_sense(precision, bool(calibration), bool(pictures), proof, accept)
    options = BuildOptions(
        backend=backend,
        precision=_precision_for_checks(precision, bool(int8_exclude)),
        batch=BatchRange.parse(batch),
        target=Target.parse(target),
        version_compatible=version_compatible,
        workspace_mib=workspace_mib,
        exclude=tuple(int8_exclude or ()),
    )
    # Imported here, as onnx and OpenCV are: `--help` answers at once.
    from foveate.tools.proven_build import BuildPictures

    if propose_exclude and precision not in ("int8", _AUTO):
        raise ConfigError(f"nodes are proposed for int8 and auto, not for {precision}: leave --propose-exclude out")
    wish = _Wish(model, options, precision == _AUTO, propose_exclude, accept, force, model_store, engine_store)
    _build(wish, BuildPictures(pictures, calibration, calibration_pictures, proof), as_json)


def _precision_for_checks(precision: str, excludes: bool) -> str:
    """One that the other options can be checked with; auto replaces it by each that it tries."""
    if precision != _AUTO:
        return precision
    return "int8" if excludes else "fp32"


def _require_sense(precision: str, calibration: bool, pictures: bool, proof: bool, accept: bool) -> None:
    if precision == _AUTO:
        if not (calibration or pictures) or not proof or accept:
            raise ConfigError(
                "auto keeps what is proven: add --pictures FOLDER_OR_VIDEO, with --calibration for int8 and fp8 too, "
                "and leave --accept and --no-proof out"
            )
        return
    if precision in BUILD_PRECISIONS and calibration != (precision in BUILD_CALIBRATED_PRECISIONS):
        raise ConfigError(
            f"{precision} is not calibrated: leave --calibration out"
            if calibration
            else f"{precision} is calibrated with pictures like those to be served: add --calibration FOLDER_OR_VIDEO"
        )
    if not proof and (pictures or accept):
        raise ConfigError("--no-proof compares nothing: leave --pictures and --accept out")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a person asked for, besides pictures."""

    model: str
    options: BuildOptions
    automatic: bool
    proposes: bool
    accept: bool
    force: bool
    model_store: Path | None
    engine_store: Path | None


def _build(wish: _Wish, pictures: BuildPictures, as_json: Path | None) -> None:
    from foveate.engines.engine_store import EngineStore
    from foveate.models.package import load_package, prepare
    from foveate.models.store import ModelStore
    from foveate.tools.precision_choice import choose_precision, precisions_to_try
    from foveate.tools.proof import BelowBar
    from foveate.tools.proven_build import ProvenBuilder

    store = EngineStore(wish.engine_store)
    model = prepare(load_package(wish.model), ModelStore(wish.model_store))
    builder = ProvenBuilder(model, pictures, store, wish.proposes)
    attempts: list[Attempt] = []
    with _BuildBars(Console(stderr=True)) as bars:
        if wish.automatic:
            tried = precisions_to_try(wish.options, pictures.calibration is not None)
            built, attempts = choose_precision(
                builder, wish.options, tried, store, force=wish.force, on_progress=bars.show
            )
        else:
            try:
                built = builder.build(wish.options, accept=wish.accept, force=wish.force, on_progress=bars.show)
            except BelowBar as error:
                bars.clear()
                _tell_failure(error.proof, as_json)
                raise
    if as_json is not None:
        _write_json(as_json, built, attempts)
    if as_json != Path("-"):
        _print_built(built, attempts)
    if pictures.proves and built.engine.record.agrees is None and built.engine.record.precision != "fp32":
        why = (built.engine.record.accuracy or {}).get("summary", "not proven")
        print(f"warning: {why}; --pictures compares with fp32, --no-proof asks for none", file=sys.stderr)


def _print_built(built: ProvenBuild, attempts: list[Attempt]) -> None:
    from foveate.tools.engines_command import engine_facts
    from foveate.tools.figures import agreement_table

    if attempts:
        Console().print(_attempts_table(attempts))
    print(f"{built.engine.record.name}: {'built' if built.fresh else 'was built before'}")
    for field, value in engine_facts(built.engine).items():
        print(f"{field:>14}  {value}")
    if built.proof is not None:
        Console().print(agreement_table(built.proof.agreement.figures, built.proof.precision))
        print(_verdict(built.proof))


def _verdict(proof: Proof) -> str:
    seen = f"by the {proof.by} on {proof.agreement.frames} pictures"
    if not proof.failures:
        return f"proven: {proof.precision} agrees with fp32, {seen}"
    return f"accepted below the bar: {'; '.join(proof.failures)}, {seen}; serving it needs accept_failed = true"


def _tell_failure(proof: Proof, as_json: Path | None) -> None:
    from foveate.tools.figures import agreement_table, write_json

    if as_json != Path("-"):
        Console().print(agreement_table(proof.agreement.figures, proof.precision))
    if as_json is not None:
        refused = {"precision": proof.precision, **proof.record(), "accepted": False}
        write_json(as_json, {"engine": None, "proof": refused})


def _write_json(path: Path, built: ProvenBuild, attempts: list[Attempt]) -> None:
    from foveate.tools.figures import write_json

    engine: dict[str, Any] = {**built.engine.record.model_dump(mode="json"), "path": str(built.engine.path)}
    write_json(path, {"engine": engine, "fresh": built.fresh, "attempts": [asdict(each) for each in attempts]})


def _attempts_table(attempts: list[Attempt]) -> Table:
    table = Table("precision", "outcome", "frames/s", "reached", box=None, padding=(0, 2, 0, 0))
    for each in attempts:
        rate = "-" if each.frames_per_s is None else f"{each.frames_per_s:.0f}"
        table.add_row(each.precision, each.outcome, rate, escape(each.reached))  # `foveate[build]` is no markup
    return table


class _BuildBars:
    """A bar for each phase that goes on, where the console is a terminal; phases hold other phases."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}

    def show(self, phase: str, done: int, total: int) -> None:
        if phase not in self._bars:
            self._bars[phase] = self._progress.add_task(phase, total=total)
        self._progress.update(self._bars[phase], completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._bars.pop(phase))

    def clear(self) -> None:
        """Take the bars away, to print something."""
        self._progress.stop()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
