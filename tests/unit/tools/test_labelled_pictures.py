"""Labelled folders: whose picture is whose, in both layouts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from foveate.engines import ConfigError
from foveate.models.accuracy import BoxTruth, ClassTruth
from foveate.tools.labelled_pictures import LabelledPictures, labelled_pictures

LABELS = ("tench", "great white shark", "crane", "crane")


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))


def _ids(found: LabelledPictures) -> dict[str, set[int]]:
    return {
        f"{path.parent.name}/{path.name}": set(truth.class_ids)
        for path, truth in zip(found.paths, found.truths, strict=True)
        if isinstance(truth, ClassTruth)
    }


def test_class_folders_are_called_by_label_or_index(tmp_path: Path) -> None:
    for name in ("tench/a.jpg", "tench/deep/b.png", "Great_White_Shark/c.jpg", "3/d.webp", "crane/e.jpg"):
        if name.endswith(".webp"):
            _picture(tmp_path / name.replace(".webp", ".png"))
        else:
            _picture(tmp_path / name)
    (tmp_path / "tench" / "notes.txt").write_text("no picture")
    assert _ids(labelled_pictures(tmp_path, LABELS)) == {
        "tench/a.jpg": {0},
        "deep/b.png": {0},
        "Great_White_Shark/c.jpg": {1},
        "3/d.png": {3},
        "crane/e.jpg": {2, 3},
    }


def test_wordnet_numbers_come_with_a_mapping_or_all_together(tmp_path: Path) -> None:
    numbers = ["n01440764", "n01484850", "n02012849", "n03126707"]
    _picture(tmp_path / "some" / numbers[2] / "a.jpg")
    with pytest.raises(ConfigError, match="LOC_synset_mapping"):
        labelled_pictures(tmp_path / "some", LABELS)
    (tmp_path / "some" / "LOC_synset_mapping.txt").write_text("".join(f"{each} names, more\n" for each in numbers))
    assert _ids(labelled_pictures(tmp_path / "some", LABELS)) == {f"{numbers[2]}/a.jpg": {2}}
    for number in numbers:
        _picture(tmp_path / "all" / number / "a.jpg")
    found = _ids(labelled_pictures(tmp_path / "all", LABELS))
    assert found == {f"{number}/a.jpg": {index} for index, number in enumerate(numbers)}


def _write_coco(folder: Path, **changes: Any) -> Path:
    data = {
        "images": [{"id": 7, "file_name": "one.png"}, {"id": 9, "file_name": "val/two.png"}],
        "categories": [{"id": 18, "name": "Crane"}, {"id": 2, "name": "zebra"}, {"id": 5, "name": "tench"}],
        "annotations": [
            {"image_id": 9, "category_id": 5, "bbox": [10, 20, 30, 40], "area": 500, "iscrowd": 0},
            {"image_id": 9, "category_id": 2, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0},
            {"image_id": 9, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ],
        **changes,
    }
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances.json").write_text(json.dumps(data))
    _picture(folder / "images" / "one.png")
    _picture(folder / "images" / "two.png")
    return folder


def test_coco_boxes_are_those_of_the_models_classes(tmp_path: Path) -> None:
    found = labelled_pictures(_write_coco(tmp_path), LABELS)
    assert [path.name for path in found.paths] == ["one.png", "two.png"]
    empty, truth = found.truths
    assert isinstance(empty, BoxTruth)
    assert isinstance(truth, BoxTruth)
    assert empty.boxes.shape == (0, 4)
    assert truth.boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert truth.class_ids.tolist() == [0, 2]
    assert truth.areas.tolist() == [500, 12]
    assert truth.crowds.tolist() == [False, True]


def test_pictures_that_find_ranges_are_not_judged_by(tmp_path: Path) -> None:
    truth = ClassTruth(frozenset({1}))
    all_of_them = LabelledPictures(tuple(tmp_path / f"{number}.png" for number in range(10)), (truth,) * 10)
    for most, count in ((64, 5), (3, 3), (1, 1)):
        calibration, judged = all_of_them.split(most)
        assert len(calibration.paths) == count
        assert {*calibration.paths, *judged.paths} == set(all_of_them.paths)
        assert not set(calibration.paths) & set(judged.paths)
        assert len(judged.truths) == len(judged.paths)
    assert len(all_of_them.spread(4).paths) == 4
    assert all_of_them.spread(None) == all_of_them


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images": [{"id": 7, "file_name": "gone.png"}]}, "is not in COCO's format|1 pictures of"),
        ({"images": [{"id": 9, "file_name": "gone.png"}]}, r"1 pictures of .* are not in .*, such as gone\.png"),
        ({"categories": [{"id": 5, "name": "zebra"}]}, "no category of .* is a label of the model"),
        ({"annotations": [{"image_id": 3}]}, "not in COCO's format"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        labelled_pictures(_write_coco(tmp_path, **changes), LABELS)


def test_what_is_no_labelled_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        labelled_pictures(tmp_path / "nowhere", LABELS)
    with pytest.raises(ConfigError, match="no pictures in class folders"):
        labelled_pictures(tmp_path, LABELS)
    _picture(tmp_path / "whale" / "a.jpg")
    with pytest.raises(ConfigError, match="called after no class of the model"):
        labelled_pictures(tmp_path, LABELS)
    (tmp_path / "other" / "annotations").mkdir(parents=True)
    for name in ("train.json", "val.json"):
        (tmp_path / "other" / "annotations" / name).write_text("{}")
    with pytest.raises(ConfigError, match="holds 2 files"):
        labelled_pictures(tmp_path / "other", LABELS)
