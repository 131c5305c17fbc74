"""Label sets: the class names of a model, by class index.

A set is a text file with one name a line; lines before the first name that start with ``#`` are comments.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from foveate.engines.errors import ConfigError

__all__ = ["label_set_names", "load_labels"]

_FOLDER = Path(__file__).parent / "labels"
_FILE_PREFIX = "file:"


def label_set_names() -> tuple[str, ...]:
    """The names of the label sets that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def load_labels(labels: str | tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The class names that a manifest's ``labels`` stands for, by class index.

    `folder` is the manifest's own: ``file:`` paths start there.
    Raises: ConfigError if there is no such set or file, or the file is empty or has a blank line in it.
    """
    if not isinstance(labels, str):
        return labels
    if labels.startswith(_FILE_PREFIX):
        return _labels_from_file(folder / labels.removeprefix(_FILE_PREFIX))
    return _label_set(labels)


@cache
def _label_set(name: str) -> tuple[str, ...]:
    known = label_set_names()
    if name not in known:
        raise ConfigError(
            f"no label set {name!r}: use one of {', '.join(known)}, {_FILE_PREFIX}PATH, or a list of names"
        )
    return _labels_from_file(_FOLDER / f"{name}.txt")


def _labels_from_file(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the labels in {path}: {error}") from error
    first = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    names = tuple(line.strip() for line in lines[first:])
    if not names:
        raise ConfigError(f"{path} holds no labels: expected one class name a line")
    if "" in names:
        raise ConfigError(
            f"{path}, line {first + names.index('') + 1}: expected a class name, found a blank line; "
            "the class index is the line's place, so write a name such as N/A there"
        )
    return names
