"""`foveate build`: compile a model into an engine."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from foveate.engines.build_options import BUILD_BACKENDS, BUILD_PRECISIONS, BatchRange, BuildOptions, Target
from foveate.engines.errors import ConfigError
from foveate.tools.console import failing_softly

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foveate.models.package import PreparedModel

__all__ = ["build"]


@failing_softly()
def build(
    model: Annotated[str, typer.Argument(help="A catalog name, or the path of a package's folder.")],
    precision: Annotated[
        str, typer.Option(metavar="|".join(BUILD_PRECISIONS), help="What the network computes in.")
    ] = ("fp32"),
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
    calibration: Annotated[
        str | None,
        typer.Option(metavar="FOLDER_OR_VIDEO", help="Pictures like those to be served, for int8 and fp8."),
    ] = None,
    calibration_pictures: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most pictures taken from them, spread evenly.")
    ] = 64,
    int8_exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="A node that stays float in int8 and fp8; may be given again."),
    ] = None,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most scratch memory of a layer. Default: the library's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if the engine is there already.")] = False,
    model_store: Annotated[
        Path | None, typer.Option("--model-store", metavar="DIR", help="Folder of fetched and prepared models.")
    ] = None,
    engine_store: Annotated[
        Path | None, typer.Option("--engine-store", metavar="DIR", help="Folder of built engines.")
    ] = None,
) -> None:
    """Compile a model into an engine, or find the one that was built before.

    tensorrt_rtx compiles on machines without a GPU too. Ctrl-C ends a build and keeps nothing of it.
    """
    options = BuildOptions(
        backend=backend,
        precision=precision,
        batch=BatchRange.parse(batch),
        target=Target.parse(target),
        version_compatible=version_compatible,
        workspace_mib=workspace_mib,
        exclude=tuple(int8_exclude or ()),
    )
    if bool(calibration) != options.quantised:
        raise ConfigError(
            f"{precision} is not calibrated: leave --calibration out"
            if calibration
            else f"{precision} is calibrated with pictures like those to be served: add --calibration FOLDER_OR_VIDEO"
        )
    _build(model, options, calibration, calibration_pictures, force, model_store, engine_store)


def _build(
    model: str,
    options: BuildOptions,
    calibration: str | None,
    most_pictures: int,
    force: bool,
    model_store: Path | None,
    engine_store: Path | None,
) -> None:
    # Imported here, as onnx and OpenCV are: `--help` answers at once.
    from foveate.engines.build import build_engine
    from foveate.engines.engine_store import EngineStore
    from foveate.models.package import load_package, prepare
    from foveate.models.store import ModelStore
    from foveate.tools.engines_command import engine_facts

    prepared = prepare(load_package(model), ModelStore(model_store))
    pictures = [] if calibration is None else _pictures(calibration, prepared, most_pictures)
    with _BuildBars(Console(stderr=True)) as bars:
        built = build_engine(
            prepared.onnx_path,
            prepared.manifest.name,
            options,
            EngineStore(engine_store),
            calibration=pictures,
            on_progress=bars.show,
            force=force,
        )
    print(f"{prepared.manifest.name}: {'built' if bars.shown else 'was built before'}")
    for field, value in engine_facts(built).items():
        print(f"{field:>14}  {value}")


def _pictures(source: str, model: PreparedModel, most: int) -> list[NDArray[np.uint8]]:
    from foveate.tools.calibration_pictures import calibration_pictures

    return calibration_pictures(source, model, most)


class _BuildBars:
    """A bar for each phase that goes on, where the console is a terminal; phases hold other phases."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self.shown = False
        """Whether there was anything to show: an engine that is found again has no phases."""

    def show(self, phase: str, done: int, total: int) -> None:
        self.shown = True
        if phase not in self._bars:
            self._bars[phase] = self._progress.add_task(phase, total=total)
        self._progress.update(self._bars[phase], completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._bars.pop(phase))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
