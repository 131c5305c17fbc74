"""Folders of pictures whose contents are known.

Two layouts are understood::

    FOLDER/<class>/*.jpg                         ImageNet's: one folder for each class
    FOLDER/annotations/*.json, FOLDER/**/*.jpg   COCO's: boxes in one file, pictures by their names in it

A class folder is called by the model's label (in any case, with spaces or underscores), by its index, or by its
WordNet number (n02123045). The latter need ``LOC_synset_mapping.txt`` in FOLDER, one number and its names a line in the
order of the model's classes, or as many folders as the model has classes: sorted, they are the classes in order.
COCO's categories are matched with the model's labels by name; boxes of categories that the model does not have are
left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.engines.errors import ConfigError
from foveate.models.accuracy import BoxTruth, ClassTruth, Truth
from foveate.models.package import PreparedModel
from foveate.tools.calibration_pictures import PlacedPicture, placed_file
from foveate.tools.video_source import PICTURE_SUFFIXES

__all__ = ["LabelledPictures", "labelled_pictures"]

_WORDNET = re.compile(r"n\d{8}")
_MAPPING = "LOC_synset_mapping.txt"


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """Pictures on disk, each with what it shows."""

    paths: tuple[Path, ...]
    truths: tuple[Truth, ...]

    def placed(self, model: PreparedModel) -> Iterator[PlacedPicture]:
        """Each picture in the model's input, decoded when its turn comes: there may be thousands."""
        return (placed_file(path, model) for path in self.paths)

    def spread(self, most: int | None) -> LabelledPictures:
        """At most so many of them, spread over all."""
        step = 1 if most is None else max(1, -(-len(self.paths) // most))
        return LabelledPictures(self.paths[::step], self.truths[::step])

    def split(self, most: int) -> tuple[LabelledPictures, LabelledPictures]:
        """At most so many to calibrate with, half of all at most, and all others."""
        step = max(2, -(-len(self.paths) // most))
        taken = set(range(0, len(self.paths), step))
        return self._only(sorted(taken)), self._only([i for i in range(len(self.paths)) if i not in taken])

    def _only(self, indices: Sequence[int]) -> LabelledPictures:
        return LabelledPictures(tuple(self.paths[i] for i in indices), tuple(self.truths[i] for i in indices))


def labelled_pictures(folder: Path, labels: Sequence[str]) -> LabelledPictures:
    """What a labelled folder holds, in one of the two layouts, for a model with these labels.

    Raises: ConfigError where it is neither, or a class is not the model's.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}: expected class folders, or annotations/*.json beside pictures")
    files = sorted((folder / "annotations").glob("*.json"))
    if len(files) > 1:
        raise ConfigError(f"{folder / 'annotations'} holds {len(files)} files: leave the one of these pictures there")
    return _from_coco(folder, files[0], labels) if files else _from_class_folders(folder, labels)


def _from_class_folders(folder: Path, labels: Sequence[str]) -> LabelledPictures:
    classes = sorted(each for each in folder.iterdir() if each.is_dir())
    numbers = _wordnet_numbers(folder, [each.name for each in classes], labels)
    known = _ids_by_name(labels)
    paths: list[Path] = []
    truths: list[Truth] = []
    for each in classes:
        truth = ClassTruth(_class_ids(each, known, numbers, len(labels)))
        inside = _pictures_in(each)
        paths += inside
        truths += [truth] * len(inside)
    if not paths:
        raise ConfigError(f"no pictures in class folders in {folder}: expected FOLDER/<class>/*.jpg")
    return LabelledPictures(tuple(paths), tuple(truths))


def _class_ids(
    folder: Path, known: Mapping[str, frozenset[int]], numbers: Mapping[str, int], count: int
) -> frozenset[int]:
    name = folder.name
    if name in numbers:
        return frozenset({numbers[name]})
    if _plain(name) in known:
        return known[_plain(name)]
    if name.isdecimal() and int(name) < count:
        return frozenset({int(name)})
    raise ConfigError(
        f"{folder} is called after no class of the model: expected a label, an index from 0 to {count - 1}, or a "
        f"WordNet number with {_MAPPING} beside it"
    )


def _wordnet_numbers(folder: Path, names: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    mapping = folder / _MAPPING
    if mapping.is_file():
        numbers = [line.split()[0] for line in mapping.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        numbers = sorted(name for name in names if _WORDNET.fullmatch(name))
    if len(numbers) != len(labels):
        return {}
    return {number: index for index, number in enumerate(numbers)}


def _from_coco(folder: Path, file: Path, labels: Sequence[str]) -> LabelledPictures:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        images = {each["id"]: str(each["file_name"]) for each in data["images"]}
        names = {each["id"]: str(each["name"]) for each in data["categories"]}
        boxes: dict[Any, list[dict[str, Any]]] = {image: [] for image in images}
        for each in data["annotations"]:
            boxes[each["image_id"]].append(each)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is not in COCO's format: expected images, categories and annotations ({error})"
        ) from error
    known = _ids_by_name(labels)
    classes = {number: min(known[_plain(name)]) for number, name in names.items() if _plain(name) in known}
    if not classes:
        raise ConfigError(
            f"no category of {file} is a label of the model: expected some of {', '.join(labels[:5])}, ..."
        )
    at_hand = {path.name: path for path in _pictures_in(folder)}
    missing = [name for name in images.values() if Path(name).name not in at_hand]
    if missing:
        raise ConfigError(f"{len(missing)} pictures of {file} are not in {folder}, such as {missing[0]}")
    return LabelledPictures(
        tuple(at_hand[Path(name).name] for name in images.values()),
        tuple(
            _box_truth([each for each in boxes[image] if each["category_id"] in classes], classes) for image in images
        ),
    )


def _box_truth(annotations: Sequence[Mapping[str, Any]], classes: Mapping[Any, int]) -> BoxTruth:
    sides = np.array([each["bbox"] for each in annotations], np.float64).reshape(-1, 4)
    areas = [float(each.get("area", each["bbox"][2] * each["bbox"][3])) for each in annotations]
    return BoxTruth(
        boxes=np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1),
        class_ids=np.array([classes[each["category_id"]] for each in annotations], np.int64),
        areas=np.array(areas, np.float64),
        crowds=np.array([bool(each.get("iscrowd", 0)) for each in annotations], np.bool_),
    )


def _ids_by_name(labels: Sequence[str]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for index, name in enumerate(labels):
        found.setdefault(_plain(name), set()).add(index)
    return {name: frozenset(ids) for name, ids in found.items()}


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold().strip()


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
