"""`foveate verify`: whether a model in another precision, an engine or another model says the same, or is as right."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foveate.engines.errors import ConfigError
from foveate.tools.console import failing_softly

if TYPE_CHECKING:
    from foveate.tools.comparison import Comparison

__all__ = ["verify"]


@failing_softly()
def verify(
    model: Annotated[str, typer.Argument(help="A catalog name, or the path of a package's folder.")],
    pictures: Annotated[
        str | None,
        typer.Option(metavar="FOLDER_OR_VIDEO", help="Real pictures, such as those to be served."),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Labelled pictures instead: a folder for each class, or annotations/*.json as COCO's beside pictures.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|fp16|bf16|int8|fp8",
            help="Convert the model to it and compare; with --engine or --against, only whose thresholds hold.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.onnx|KEY", help="Compare this graph of the model, converted before, or this built engine."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compare with this model, not with the same one in fp32."),
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="tensorrt|onnxruntime", help="What the converted graph is for.")
    ] = "tensorrt",
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_VIDEO",
            help="Pictures to find int8 ranges with, or that found those of --engine for --bisect. Default: some of "
            "those to compare on, which then are not.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most pictures to compare on. Default: 64, of labelled ones all."),
    ] = None,
    int8_exclude: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="A node that stays float in int8; may be given again.")
    ] = None,
    propose_exclude: Annotated[
        bool,
        typer.Option("--propose-exclude", help="Find the nodes that lose most in int8, leave them float, name them."),
    ] = False,
    min_score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Leave out what scores less. Default: the manifest's.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Most of top-1 or AP that may be lost. Default: the precision's."),
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the layer that breaks it: compare layer by layer.")
    ] = False,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON; - for stdout.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Folder of fetched and prepared models.")
    ] = None,
    engine_store: Annotated[
        Path | None, typer.Option("--engine-store", metavar="DIR", help="Folder of built engines.")
    ] = None,
) -> None:
    """Compare a model with its fp32 self on real pictures, with ONNX Runtime on the CPU.

    Without labels the question is whether both say the same; with labels, whether both are as often right. The exit
    status is 1 where they agree less than the precision must, or more is lost than may be.
    """
    if (pictures is None) == (labelled is None):
        raise ConfigError(
            "pictures are needed, with things in them that the model knows: add --pictures FOLDER_OR_VIDEO or, with "
            "labels, --labelled FOLDER"
        )
    given = engine is not None or against is not None
    if precision is None and not given:
        raise ConfigError("nothing to compare with: add --precision, --engine or --against")
    converts_to_8_bits = precision in ("int8", "fp8") and not given
    if not converts_to_8_bits and (int8_exclude or propose_exclude or (calibration and not (given and bisect))):
        raise ConfigError(
            "--calibration, --int8-exclude and --propose-exclude belong to --precision int8 or fp8, and --calibration "
            "to --engine with --bisect"
        )
    if bisect and against is not None:
        raise ConfigError("layers can be compared of one model alone: leave --against or --bisect out")
    # Imported here, as onnx and OpenCV are: `--help` answers at once.
    from foveate.engines.engine_store import EngineStore
    from foveate.models.package import load_package, prepare
    from foveate.models.store import ModelStore
    from foveate.tools.comparison import Comparer
    from foveate.tools.verification import Conversion

    prepared = prepare(load_package(model), ModelStore(store))
    reference = prepared if against is None else prepare(load_package(against), ModelStore(store))
    comparer = Comparer(prepared, reference, pictures, labelled, calibration, limit, min_score)
    if given:
        comparer.take_given(engine, target, EngineStore(engine_store))
    else:
        comparer.take_converted(Conversion(precision or "fp32", target, tuple(int8_exclude or ()), propose_exclude))
    with Console(stderr=True).status("Comparing"):
        comparison = comparer.compared(precision, max_drop, bisect=bisect)
    names = _Names(engine or model, against or f"{model} in fp32")
    if as_json is not None:
        _write_json(as_json, comparison, names)
    if as_json != Path("-"):
        _print(comparison, names)
    for failure in comparison.failures:
        print(f"too low: {failure}", file=sys.stderr)
    if comparison.failures:
        raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class _Names:
    """What was compared with what, for people."""

    tested: str
    reference: str


def _write_json(path: Path, comparison: Comparison, names: _Names) -> None:
    from foveate.tools.figures import write_json

    facts: dict[str, Any] = {**asdict(names), **asdict(comparison)}
    if comparison.bisection is not None and comparison.bisection.culprit is not None:
        facts["bisection"]["culprit"] = asdict(comparison.bisection.culprit)
    write_json(path, facts)


def _print(comparison: Comparison, names: _Names) -> None:
    from foveate.tools.figures import accuracy_table, agreement_table, bisection_table, bisection_verdict

    console, result, accuracy = Console(), comparison.agreement, comparison.accuracy
    print(f"{names.tested} in {comparison.precision} and {names.reference}: {comparison.counts}")
    if result is not None:
        console.print(agreement_table(result.figures, comparison.judged_as))
    if accuracy is not None:
        console.print(accuracy_table(*accuracy, comparison.precision))
    for node in comparison.exclude:
        print(f"--int8-exclude {node}")
    if comparison.bisection is not None:
        console.print(bisection_table(comparison.bisection))
        print(bisection_verdict(comparison.bisection))
    print(f"{'fails' if comparison.failures else 'passes'} as {comparison.judged_as}")
