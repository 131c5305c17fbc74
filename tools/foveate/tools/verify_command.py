"""`foveate verify`: whether a model in another precision, an engine's graph or another model says the same."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from foveate.engines.errors import ConfigError
from foveate.tools.console import failing_softly

if TYPE_CHECKING:
    from foveate.tools.verification import Verified

__all__ = ["verify"]


@failing_softly()
def verify(
    model: Annotated[str, typer.Argument(help="A catalog name, or the path of a package's folder.")],
    pictures: Annotated[
        str | None,
        typer.Option(metavar="FOLDER_OR_VIDEO", help="Real pictures, such as those to be served; always needed."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|fp16|bf16|int8|fp8",
            help="Convert the model to it and compare; with --engine or --against, only whose thresholds hold.",
        ),
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="Compare this graph of the model, converted before.")
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
            metavar="FOLDER_OR_VIDEO", help="Pictures to find int8 ranges with. Default: every other one of --pictures."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Most pictures to compare on.")] = 64,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Folder of fetched and prepared models.")
    ] = None,
) -> None:
    """Compare a model with its fp32 self on real pictures, with ONNX Runtime on the CPU.

    The exit status is 1 where they agree less than the precision must.
    """
    if pictures is None:
        raise ConfigError(
            "pictures are needed, with things in them that the model knows: add --pictures FOLDER_OR_VIDEO"
        )
    given = engine is not None or against is not None
    if precision is None and not given:
        raise ConfigError("nothing to compare with: add --precision, --engine or --against")
    if (given or precision not in ("int8", "fp8")) and (calibration or int8_exclude or propose_exclude):
        raise ConfigError("--calibration, --int8-exclude and --propose-exclude belong to --precision int8 or fp8")
    # Imported here, as onnx and OpenCV are: `--help` answers at once.
    from foveate.models.package import load_package, prepare
    from foveate.models.store import ModelStore
    from foveate.tools.verification import Conversion, PictureSource, compare_conversion, compare_graphs

    source = PictureSource(pictures, calibration, limit)
    prepared = prepare(load_package(model), ModelStore(store))
    if given:
        reference = prepared if against is None else prepare(load_package(against), ModelStore(store))
        verified = compare_graphs(reference, prepared, engine or prepared.onnx_path, source, min_score)
    else:
        wish = Conversion(precision or "fp32", target, tuple(int8_exclude or ()), propose_exclude)
        verified = compare_conversion(prepared, wish, source, min_score)
    failures = verified.agreement.failures(precision or verified.precision)
    names = (model if engine is None else str(engine), against or f"{model} in fp32")
    if as_json:
        _print_json(verified, names, failures)
    else:
        _print_table(verified, names, precision or verified.precision)
    for failure in failures:
        print(f"too low: {failure}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


def _print_json(verified: Verified, names: tuple[str, str], failures: list[str]) -> None:
    tested, reference = names
    facts = {"tested": tested, "reference": reference, **asdict(verified), "failures": failures}
    print(json.dumps(facts, indent=2))


def _print_table(verified: Verified, names: tuple[str, str], precision: str) -> None:
    from foveate.models.agreement import THRESHOLDS

    result, least = verified.agreement, THRESHOLDS[precision]
    table = Table("figure", "value", f"least for {precision}", box=None, padding=(0, 2, 0, 0))
    for name, value in result.figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}", f"{least[name]:g}" if name in least else "-")
    tested, reference = names
    print(f"{tested} in {verified.precision} and {reference}: {result.compared} compared in {result.frames} pictures")
    Console().print(table)
    for node in verified.exclude:
        print(f"--int8-exclude {node}")
