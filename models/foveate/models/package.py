"""Model packages: from a name to a graph that engines can run.

A package is loaded from its manifest, its model file is fetched once into the store, and its graph is fused
once for each file, input, head and fusion version. After that nothing here imports onnx.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from foveate.engines.errors import ConfigError, ModelError
from foveate.models.catalog import catalog_folder
from foveate.models.downloads import open_source
from foveate.models.exporters import RANDOM_WEIGHTS, export_checkpoint, export_torchvision, require_exporter
from foveate.models.fusion_version import FUSION_VERSION
from foveate.models.geometry import Placement, place
from foveate.models.labels import load_labels
from foveate.models.manifest import Manifest, manifest_from_file
from foveate.models.outputs import DecodeOptions, Output
from foveate.models.postprocess import decode
from foveate.models.sources import ExportSource, FileSource, Source, TorchvisionSource, parse_source
from foveate.models.store import ModelStore, Progress, sha256_of_file

__all__ = [
    "ModelPackage",
    "PreparedModel",
    "fetch_model",
    "import_file",
    "is_fetched",
    "load_package",
    "prepare",
]

_MANIFEST_NAME = "model.toml"


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A manifest with all that it names read and understood; the model file may still be elsewhere."""

    manifest: Manifest
    reference: str
    """What `load_package` was asked for: a catalog name or a path."""
    labels: tuple[str, ...]
    source: Source

    @property
    def exported(self) -> bool:
        """Whether the ONNX file is made here, so that its hash is not known beforehand."""
        return isinstance(self.source, ExportSource | TorchvisionSource)

    @property
    def file_sha256(self) -> str:
        """The hash of the ONNX file, if the manifest says it."""
        return "" if self.exported else self.manifest.sha256

    @property
    def pin_key(self) -> str:
        """Where the store keeps the hash of an ONNX file whose manifest does not say it."""
        origin = f"{self.source.kind}:{self.source}"
        if isinstance(self.source, TorchvisionSource):  # what is exported depends on the size of its input
            origin += f" at {self.manifest.input.width_px}x{self.manifest.input.height_px}"
        return f"{self.manifest.name}-{hashlib.sha256(origin.encode()).hexdigest()[:16]}"

    @property
    def random_pin_key(self) -> str:
        """The same for an export with random weights, which never takes the place of the real one."""
        return f"{self.pin_key}-random"


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model ready for an engine, with the way into its input and out of its outputs."""

    manifest: Manifest
    labels: tuple[str, ...]
    onnx_path: Path
    """The fused graph: uint8 pixels in, candidates out."""
    key: str
    """Names this very graph; the same for the same file, input, head and fusion version."""
    random_weights: bool = False
    """Whether nobody trained it: it runs as fast as the real model, and what it says means nothing."""

    def require_trained(self) -> None:
        """Raises: ModelError if the weights are random, saying how to get the real ones."""
        if self.random_weights:
            raise ModelError(
                f"{self.manifest.name} has random weights in this model store: its answers mean nothing; get the "
                f"published weights with `foveate models fetch {self.manifest.name}`, or see how fast it is with "
                "allow_random_weights = true in the pipeline"
            )

    def place(self, frame_width: int, frame_height: int) -> Placement:
        """Where a frame of this size goes in the model's input. Raises: BadFrame for an empty frame."""
        return place(frame_width, frame_height, self.manifest.input)

    def decode(self, outputs: Mapping[str, NDArray[Any]], placement: Placement, options: DecodeOptions) -> Output:
        """What the model says about one frame, in that frame's pixels.

        Shapes: outputs by name, each one row of the graph's output, without the batch dimension; not kept.
        """
        return decode(outputs, self.manifest.task, placement, options, self.manifest.nms_iou)


def load_package(name_or_path: str | Path) -> ModelPackage:
    """A model package, by its name in the catalog or by the path of its folder or manifest.

    A string is a path if it holds a slash; anything else is a name.
    Raises: ModelError if there is no such name, ConfigError if the manifest, its source or labels are wrong.
    """
    reference = str(name_or_path)
    if isinstance(name_or_path, str) and "/" not in reference:
        folder = catalog_folder(reference)
    else:
        path = Path(name_or_path)
        folder = path.parent if path.name == _MANIFEST_NAME else path
    folder = folder.resolve()
    manifest = manifest_from_file(folder / _MANIFEST_NAME)
    try:
        labels, source = load_labels(manifest.labels, folder), parse_source(manifest.source, folder)
    except ConfigError as error:
        raise ConfigError(f"{folder / _MANIFEST_NAME}: {error}") from error
    return ModelPackage(manifest, reference, labels, source)


def is_fetched(package: ModelPackage, store: ModelStore) -> bool:
    """Whether `prepare` needs no download: its file, or the graph made from it, is on this machine.

    An export with random weights does not count.
    """
    if isinstance(package.source, FileSource) and package.source.path.is_file():
        return True
    sha256 = package.file_sha256 or store.pinned(package.pin_key)
    return sha256 is not None and (
        store.has_blob(sha256) or store.prepared(_prepared_key(sha256, package.manifest)) is not None
    )


def fetch_model(
    package: ModelPackage,
    store: ModelStore,
    *,
    sha256: str = "",
    trust_first: bool = False,
    random_weights: bool = False,
    on_progress: Progress | None = None,
) -> str:
    """Bring a package's ONNX file into the store, downloaded or exported, and return its sha256.

    Where the manifest names no hash of a download, the caller gives one, or `trust_first` takes whatever comes; either
    is pinned in the store, so that every later fetch must bring the same file. With `random_weights` a torchvision
    model is exported without its published weights, and says so in `PreparedModel`.
    Raises: ModelError if the file cannot be had or made, ChecksumMismatch if it is another, EngineUnavailable if it is
    to be exported without torch.
    """
    if isinstance(package.source, TorchvisionSource):
        return _fetch_torchvision(package, package.source, store, sha256, random_weights, on_progress)
    if random_weights:
        raise ModelError(
            f"{package.manifest.name} comes from {package.source}: random weights are for torchvision: sources alone"
        )
    if isinstance(package.source, ExportSource):
        return _fetch_checkpoint(package, package.source, store, sha256, trust_first, on_progress)
    fetched = _download(package, package.source, store, sha256, trust_first, on_progress)
    if not package.manifest.sha256 and not isinstance(package.source, FileSource):
        store.pin(package.pin_key, fetched)
    return fetched


def import_file(package: ModelPackage, store: ModelStore, path: Path, *, on_progress: Progress | None = None) -> str:
    """Put a file of this machine into the store as a package's model file and return its sha256.

    Raises: ChecksumMismatch if the manifest names another file's hash, ModelError if it cannot be read.
    """
    with open_source(FileSource(path)) as download:
        sha256 = store.add_blob(
            download.chunks,
            origin=str(path),
            expected_sha256=package.file_sha256,
            total_bytes=download.total_bytes,
            on_progress=on_progress,
        )
    if not package.file_sha256:
        store.pin(package.pin_key, sha256)
    return sha256


def prepare(
    package: ModelPackage, store: ModelStore, *, fetch: bool = True, on_progress: Progress | None = None
) -> PreparedModel:
    """The package's fused graph, made if the store does not have it yet.

    With `fetch` a model file that is missing or damaged is fetched; without, nothing leaves this machine.
    Raises: ModelError, saying which command helps, if the file is not there or does not fit the manifest.
    """
    sha256 = _known_sha256(package, store)
    if sha256 is None:
        sha256 = _fetch_for_prepare(package, store, fetch, on_progress)
    key = _prepared_key(sha256, package.manifest)
    path = store.prepared(key)
    if path is None:
        with store.lock(key):
            path = store.prepared(key)  # another process may have made it while this one waited
            if path is None:
                if not store.check_blob(sha256):
                    _refetch(package, store, sha256, fetch, on_progress)
                path = _add_fused(package, store, sha256, key)
    random_weights = bool(store.prepared_facts(key).get("random_weights"))
    return PreparedModel(package.manifest, package.labels, path, key, random_weights)


def _known_sha256(package: ModelPackage, store: ModelStore) -> str | None:
    """The hash of the package's model file as far as it can be told without a download."""
    known = package.file_sha256 or store.pinned(package.pin_key) or store.pinned(package.random_pin_key)
    if known is None and isinstance(package.source, FileSource) and package.source.path.is_file():
        known = sha256_of_file(package.source.path)
    return known


def _fetch_torchvision(
    package: ModelPackage,
    source: TorchvisionSource,
    store: ModelStore,
    sha256: str,
    random_weights: bool,
    on_progress: Progress | None,
) -> str:
    if sha256 or package.manifest.sha256:
        raise ModelError(
            f"a sha256 cannot be given for {source}: torchvision names the hash of its weights itself, and the ONNX "
            "file is made here; leave it out"
        )
    try:
        exported = export_torchvision(
            source, package.manifest.input, random_weights=random_weights, on_progress=on_progress
        )
    except ModelError as error:
        raise ModelError(f"{package.manifest.name}: {error}; {_import_hint(package)}") from error
    return _keep_export(exported.content, package, store, package.random_pin_key if random_weights else package.pin_key)


def _fetch_checkpoint(
    package: ModelPackage,
    source: ExportSource,
    store: ModelStore,
    sha256: str,
    trust_first: bool,
    on_progress: Progress | None,
) -> str:
    try:
        require_exporter(source)
    except ModelError as error:
        raise ModelError(f"{package.manifest.name}: {error}; {_import_hint(package)}") from error
    checkpoint = package.manifest.sha256
    if not checkpoint or not store.check_blob(checkpoint):
        checkpoint = _download(package, source.checkpoint, store, sha256, trust_first, on_progress)
    exported = export_checkpoint(source, store.blob_path(checkpoint), package.manifest.input)
    return _keep_export(exported.content, package, store, package.pin_key)


def _keep_export(content: bytes, package: ModelPackage, store: ModelStore, pin_key: str) -> str:
    sha256 = store.add_blob([content], origin=f"the export of {package.manifest.name}", total_bytes=len(content))
    store.pin(pin_key, sha256)
    return sha256


def _download(
    package: ModelPackage,
    source: Source,
    store: ModelStore,
    sha256: str,
    trust_first: bool,
    on_progress: Progress | None,
) -> str:
    expected = _expected_sha256(package, store, sha256)
    if not expected and not trust_first and not isinstance(source, FileSource):
        raise ModelError(
            f"the manifest of {package.manifest.name} names no sha256, so a download could not be checked: "
            f"give the one that its publisher states with `foveate models fetch {package.reference} --sha256 "
            "HASH`, or accept what comes and pin it with `--trust-first`"
        )
    with ExitStack() as stack:
        try:
            download = stack.enter_context(open_source(source))
        except ModelError as error:
            raise ModelError(f"{package.manifest.name}: {error}; {_import_hint(package)}") from error
        return store.add_blob(
            download.chunks,
            origin=f"{package.manifest.name} from {source}",
            expected_sha256=expected,
            total_bytes=download.total_bytes,
            on_progress=on_progress,
        )


def _expected_sha256(package: ModelPackage, store: ModelStore, given: str) -> str:
    """Of the file that is downloaded; empty where any will do."""
    stated = package.manifest.sha256
    if given and stated and given != stated:
        raise ModelError(
            f"--sha256 {given} contradicts the manifest of {package.manifest.name}, which names {stated}: "
            "leave the option out, or change the manifest"
        )
    if given:
        store.blob_path(given)  # refuses what is no hash before anything is downloaded
    pinned = None if package.exported else store.pinned(package.pin_key)
    return given or stated or pinned or ""


def _fetch_for_prepare(package: ModelPackage, store: ModelStore, fetch: bool, on_progress: Progress | None) -> str:
    if fetch or isinstance(package.source, FileSource):
        return fetch_model(package, store, on_progress=on_progress)
    raise ModelError(
        f"the model file of {package.manifest.name} is not in the model store {store.root}: "
        f"run `foveate models fetch {package.reference}`; {_import_hint(package)}"
    )


def _refetch(package: ModelPackage, store: ModelStore, sha256: str, fetch: bool, on_progress: Progress | None) -> None:
    if _fetch_for_prepare(package, store, fetch, on_progress) != sha256:
        raise ModelError(f"{package.source} changed while it was being prepared: try again")


def _import_hint(package: ModelPackage) -> str:
    return f"an ONNX file that is already here is put in with `foveate models import {package.reference} FILE`"


def _prepared_key(sha256: str, manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(_facts(sha256, manifest), sort_keys=True).encode()).hexdigest()


def _facts(sha256: str, manifest: Manifest) -> dict[str, Any]:
    """All that decides what a prepared graph computes."""
    return {
        "source_sha256": sha256,
        "fusion_version": FUSION_VERSION,
        "input": manifest.input.model_dump(mode="json"),
        "head": manifest.head.model_dump(mode="json"),
    }


def _add_fused(package: ModelPackage, store: ModelStore, sha256: str, key: str) -> Path:
    # Imported here: onnx costs a serving process time and memory that a prepared graph makes needless.
    import onnx

    from foveate.models.fusion import fuse

    blob = store.blob_path(sha256)
    try:
        onnx.checker.check_model(blob)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"the model file of {package.manifest.name} is not a whole ONNX model ({error}): "
            "it must be one file with its weights inside"
        ) from error
    model = onnx.load(blob)
    graph = fuse(model, package.manifest).SerializeToString()
    facts = {"name": package.manifest.name, **_facts(sha256, package.manifest)}
    if any(each.key == RANDOM_WEIGHTS and each.value == "true" for each in model.metadata_props):
        facts["random_weights"] = True
    return store.add_prepared(key, graph, facts)
