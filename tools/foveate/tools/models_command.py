"""`foveate models`: what is in the catalog, what is on this machine, and how it gets there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from foveate.engines.errors import ConfigError
from foveate.models.catalog import catalog_names
from foveate.models.package import (
    ModelPackage,
    fetch_model,
    import_file,
    is_fetched,
    load_package,
    prepare,
)
from foveate.models.store import ModelStore
from foveate.models.store import Progress as ProgressCallback
from foveate.tools.console import failing_softly

__all__ = ["app"]

app = typer.Typer(help="Model packages: list, show, fetch, import, add.", no_args_is_help=True)

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the model store. Default: foveate/models in the user's cache."),
]
NameArgument = Annotated[str, typer.Argument(help="A catalog name, or the path of a package's folder.")]


@app.command("list")
@failing_softly()
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, store: StoreOption = None
) -> None:
    """The models of the catalog."""
    model_store = ModelStore(store)
    rows = [_summary(load_package(name), model_store) for name in catalog_names()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = ("name", "task", "input", "licence", "source", "fetched", "verified")
    table = Table(*columns, box=None, padding=(0, 1, 0, 0))
    table.caption = "verified: this project has downloaded it from there and run it"
    for row in rows:
        marks = ("yes" if row["fetched"] else "no", "yes" if row["verified"] else "no")
        table.add_row(row["name"], row["task"], row["input"], row["licence"], row["source_kind"], *marks)
    Console().print(table)


@app.command()
@failing_softly()
def show(
    name: NameArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    store: StoreOption = None,
) -> None:
    """What one model is, where it comes from and on what terms."""
    facts = _facts(load_package(name), ModelStore(store))
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for field, value in facts.items():
        shown = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        table.add_row(field.replace("_", " "), shown or "-")
    Console().print(table)


@app.command()
@failing_softly()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Catalog names, or paths of packages' folders.")],
    sha256: Annotated[
        str, typer.Option(help="What the file must hash to, for a model whose manifest does not say.")
    ] = "",
    trust_first: Annotated[
        bool, typer.Option("--trust-first", help="Take what comes where no hash is known, and pin it.")
    ] = False,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Export a torchvision model untrained: for speed, not for answers."),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Download or export models, check them, and prepare them to be served."""
    if sha256 and len(names) > 1:
        raise ConfigError("--sha256 belongs to one model: fetch them one by one")
    model_store = ModelStore(store)
    for package in [load_package(name) for name in names]:  # all names are checked before the first download
        with _progress_bar(package.manifest.name) as on_progress:
            if sha256 or random_weights or not is_fetched(package, model_store):
                fetch_model(
                    package,
                    model_store,
                    sha256=sha256,
                    trust_first=trust_first,
                    random_weights=random_weights,
                    on_progress=on_progress,
                )
            prepared = prepare(package, model_store, on_progress=on_progress)
        print(f"{package.manifest.name}: ready at {prepared.onnx_path}")
        if prepared.random_weights:
            print("  random weights: it is as fast as the real model, and its answers mean nothing")
        _print_pin(package, model_store)
        if package.manifest.data_terms:
            print(f"  note: {package.manifest.data_terms}")


@app.command("import")
@failing_softly()
def import_model(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="The ONNX file.")],
    store: StoreOption = None,
) -> None:
    """Put in an ONNX file that is already on this machine, and prepare it to be served."""
    model_store = ModelStore(store)
    package = load_package(name)
    import_file(package, model_store, file)
    prepared = prepare(package, model_store, fetch=False)
    print(f"{package.manifest.name}: ready at {prepared.onnx_path}")
    _print_pin(package, model_store)


@app.command("add")
@failing_softly()
def add_model(
    file: Annotated[Path, typer.Argument(help="The ONNX file.")],
    head: Annotated[
        str | None,
        typer.Option(help="What reads its outputs, such as yolo or logits.", show_default="by their shapes"),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="SET_OR_FILE",
            help="A label set such as coco80, coco for the one that fits, or a file with a name a line.",
            show_default="the file's own, or those that fit",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the package.", show_default="the file's")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of its input.", show_default="the file's own")
    ] = None,
    licence: Annotated[str | None, typer.Option(metavar="SPDX", help="Of the weights.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the package's folder is put.")] = Path("."),
) -> None:
    """Make a package of an ONNX file: propose its manifest, and say what was assumed."""
    # Imported here: onnx is needed for this and for no other command.
    from foveate.models.new_package import propose_package

    size_px = None if size is None else _size_px(size)
    proposed = propose_package(file, head=head, labels=labels, name=name, size_px=size_px, licence=licence)
    folder = proposed.write(out)
    print(f"{proposed.manifest.name}: written to {folder}")
    for each in proposed.found:
        print(f"  found    {each}")
    for each in proposed.assumed:
        print(f"  assumed  {each}")
    reference, variable = folder.resolve(), f"FOVEATE_PIPELINES__{proposed.manifest.task.upper()}__MODEL"
    print(f"check it with your own pictures, and mend {folder / 'model.toml'} where it is wrong:")
    print(f"  foveate models fetch {reference}")
    print(f"  {variable}={reference} foveate stream PICTURES --output answers.mp4")


def _size_px(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not width.isdecimal() or not height.isdecimal():
        raise ConfigError(f"--size is WIDTHxHEIGHT in pixels, such as 640x640, not {text!r}")
    return int(width), int(height)


def _print_pin(package: ModelPackage, store: ModelStore) -> None:
    pinned = store.pinned(package.pin_key)
    if pinned and not package.manifest.sha256 and not package.exported:
        print(f'  pinned in this store; to pin it for good, put sha256 = "{pinned}" into the manifest')


def _summary(package: ModelPackage, store: ModelStore) -> dict[str, Any]:
    manifest = package.manifest
    return {
        "name": manifest.name,
        "task": manifest.task,
        "input": f"{manifest.input.width_px}x{manifest.input.height_px}",
        "licence": manifest.licence,
        "source_kind": package.source.kind,
        "fetched": is_fetched(package, store),
        "verified": manifest.verified,
    }


def _facts(package: ModelPackage, store: ModelStore) -> dict[str, Any]:
    manifest = package.manifest
    sha256 = package.file_sha256 or store.pinned(package.pin_key) or ""
    return {
        "name": manifest.name,
        "title": manifest.title,
        "task": manifest.task,
        "input": f"{manifest.input.width_px}x{manifest.input.height_px} {manifest.input.colour}",
        "resize": manifest.input.resize,
        "head": manifest.head.kind,
        "labels": len(package.labels),
        "first_labels": ", ".join(package.labels[:5]),
        "licence": manifest.licence,
        "data_terms": manifest.data_terms,
        "homepage": manifest.homepage,
        "source": manifest.source,
        "sha256": sha256,
        "verified": manifest.verified,
        "fetched": is_fetched(package, store),
        "file": str(store.blob_path(sha256)) if sha256 and store.has_blob(sha256) else "",
        "store": str(store.root),
    }


@contextmanager
def _progress_bar(name: str) -> Iterator[ProgressCallback]:
    """A bar on stderr, where that is a terminal, that shows up with the first byte."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
