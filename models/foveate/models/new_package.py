"""A model package made of an ONNX file: its manifest proposed, proven to fit the graph, and written beside a copy."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from foveate.engines.errors import ConfigError, ModelError
from foveate.models.fusion import fuse
from foveate.models.graph_facts import GraphFacts, graph_facts
from foveate.models.labels import label_set_names, load_labels
from foveate.models.manifest import Manifest, manifest_from_text
from foveate.models.proposal import HeadGuess, InputGuess, guess_head, guess_input
from foveate.models.store import sha256_of_file

__all__ = ["ProposedPackage", "propose_package"]

_MODEL_FILE = "model.onnx"
_LABELS_FILE = "labels.txt"
_UNKNOWN_LICENCE = "LicenseRef-unknown"
_FILE_PREFIX = "file:"
_TASKS = {"logits": "classify", "embedding": "embed"}


@dataclass(frozen=True, slots=True)
class ProposedPackage:
    """A package that is not written yet."""

    model: Path
    text: str
    """Of its `model.toml`."""
    manifest: Manifest
    labels: tuple[str, ...]
    label_file: bool
    """Whether the labels are written into a file of their own."""
    found: tuple[str, ...]
    """What the file says."""
    assumed: tuple[str, ...]
    """What it does not say: to be checked."""

    def write(self, parent: Path) -> Path:
        """Put the package into a folder of its name below `parent`, all of it or nothing, and return that folder.

        Raises: ConfigError if the folder is there already, ModelError if it cannot be written.
        """
        folder = parent / self.manifest.name
        if folder.exists():
            raise ConfigError(f"{folder} is there already: remove it, or choose another --name or --out")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".adding-", dir=parent) as scratch:
                partial = Path(scratch) / self.manifest.name
                partial.mkdir()
                shutil.copyfile(self.model, partial / _MODEL_FILE)
                (partial / "model.toml").write_text(self.text, encoding="utf-8")
                if self.label_file:
                    (partial / _LABELS_FILE).write_text("\n".join(self.labels) + "\n", encoding="utf-8")
                partial.rename(folder)
        except OSError as error:
            raise ModelError(f"cannot write {folder} ({error.strerror or error})") from error
        return folder


def propose_package(
    model: Path,
    *,
    head: str | None = None,
    labels: str | None = None,
    name: str | None = None,
    size_px: tuple[int, int] | None = None,
    licence: str | None = None,
) -> ProposedPackage:
    """A package for an ONNX file, with what is told taken as it is and the rest proposed.

    `labels` is a label set (``coco80``, or ``coco`` for the one that fits), the path of a file with a name a line, or
    None for those in the file, or that fit the number of classes.
    Raises: ModelError where no head can read the graph, ConfigError for an unknown head, labels or name.
    """
    facts = graph_facts(model, size_px)
    given = _given_labels(labels)
    known = len(given) if given else None if labels else len(facts.labels) or None
    guess = guess_head(facts, head, known)
    source, names, labels_why = _labels(guess, facts, labels, given)
    sees = guess_input(facts, guess)
    terms, terms_why = _licence(licence, facts)
    text = _text(name or _name_of(model), model, facts, guess, sees, source, terms)
    manifest = manifest_from_text(text, "the proposed manifest")
    fuse(onnx.load(model), manifest)  # what is proposed must fit, not only look alike
    return ProposedPackage(
        model,
        text,
        manifest,
        names,
        source == f"{_FILE_PREFIX}{_LABELS_FILE}",
        (f"head {guess.kind}: {guess.why}", *_found(facts)),
        tuple(filter(None, (f"input: {sees.why}", *guess.assumed, labels_why, terms_why))),
    )


def _found(facts: GraphFacts) -> list[str]:
    origin = "as the file says" if facts.fixed_size else "which it takes, and does not insist on"
    found = [f"input {facts.width_px}x{facts.height_px}, {origin}"]
    return [*found, f"{len(facts.labels)} class names in its metadata"] if facts.labels else found


def _given_labels(labels: str | None) -> tuple[str, ...]:
    """Labels whose number is known before the head is: all but a name that several sets begin with."""
    if labels is None:
        return ()
    sets = _matching_sets(labels)
    if labels in sets or len(sets) == 1:
        return load_labels(labels if labels in sets else sets[0], Path())
    if sets:
        return ()
    path = Path(labels.removeprefix(_FILE_PREFIX))
    return load_labels(f"{_FILE_PREFIX}{path.name}", path.parent)


def _matching_sets(labels: str) -> list[str]:
    return [each for each in label_set_names() if each.startswith(labels)]


def _labels(
    guess: HeadGuess, facts: GraphFacts, labels: str | None, given: tuple[str, ...]
) -> tuple[str, tuple[str, ...], str]:
    """The manifest's word for the labels, the labels, and what was assumed about them."""
    own_file = f"{_FILE_PREFIX}{_LABELS_FILE}"
    if guess.kind == "embedding":
        return "", (), ""
    sets = {each: load_labels(each, Path()) for each in (_matching_sets(labels) if labels else label_set_names())}
    if given:
        source = next((each for each, names in sets.items() if labels and names == given), own_file)
        return source, _checked(given, guess, str(labels)), ""
    if facts.labels and not labels:
        return own_file, _checked(facts.labels, guess, "the file's metadata"), ""
    fitting = [each for each, names in sets.items() if len(names) == guess.classes]
    if labels and not fitting:
        raise ModelError(
            f"none of the label sets {', '.join(sets)} has the {guess.classes} names that the model needs, read by "
            f"head {guess.kind!r} ({guess.why}): give other --labels, or another --head"
        )
    if fitting and (labels or guess.classes > 1):
        return fitting[0], sets[fitting[0]], f"labels: {fitting[0]}, by the number of classes, {guess.classes}"
    numbered = tuple(f"class {index}" for index in range(guess.classes))
    return own_file, numbered, f"labels: the file names none, so its {guess.classes} classes are numbered"


def _checked(names: tuple[str, ...], guess: HeadGuess, origin: str) -> tuple[str, ...]:
    if guess.classes and len(names) != guess.classes:
        raise ModelError(
            f"{origin} names {len(names)} classes, the model has {guess.classes} by its outputs, read by head "
            f"{guess.kind!r} ({guess.why}): give other --labels, or another --head"
        )
    return names


def _licence(told: str | None, facts: GraphFacts) -> tuple[str, str]:
    if told:
        return told, ""
    if "AGPL-3.0" in facts.metadata.get("license", ""):
        return "AGPL-3.0", "licence: AGPL-3.0 by the file's metadata, which binds a service that answers over a network"
    return _UNKNOWN_LICENCE, "licence: not known; put the weights' own into the manifest"


def _name_of(model: Path) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "_", model.stem.lower()).strip("_.-")[:64] or "model"


def _text(
    name: str,
    model: Path,
    facts: GraphFacts,
    head: HeadGuess,
    sees: InputGuess,
    labels: str,
    licence: str,
) -> str:
    task = _TASKS.get(head.kind, "detect")
    top: dict[str, Any] = {
        "name": name,
        "title": facts.metadata.get("description") or name,
        "task": task,
        "source": f"{_FILE_PREFIX}{_MODEL_FILE}",
        "sha256": sha256_of_file(model),
        "labels": labels or [],
        "min_score": {"classify": 0.05}.get(task, 0.25),
        "licence": licence,
        "homepage": facts.metadata.get("docs", ""),
    }
    if head.kind in ("yolo_end2end", "detr"):
        top["nms_iou"] = 1.0  # such models leave out overlapping boxes themselves
    size = {"width_px": facts.width_px, "height_px": facts.height_px}
    return "\n".join(
        [
            f"# Proposed by `foveate models add` for {model.name}.",
            *_lines(top),
            "",
            f"# Assumed, {sees.why}.",
            "[input]",
            *_lines({**size, **sees.fields}),
            "",
            f"# {head.why}.",
            *(f"# Assumed: {each}." for each in head.assumed),
            "[head]",
            *_lines({"kind": head.kind, "outputs": head.outputs, **head.fields}),
            "",
        ]
    )


def _lines(fields: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in fields.items()]


def _toml(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers and booleans are TOML's as well."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
