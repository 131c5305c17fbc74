from pathlib import Path

import pytest

from foveate.engines.errors import ConfigError
from foveate.models.labels import label_set_names, load_labels

HERE = Path()


@pytest.mark.parametrize(
    ("name", "count", "examples"),
    [
        ("coco80", 80, {0: "person", 15: "cat", 41: "cup", 79: "toothbrush"}),
        ("coco90", 90, {0: "person", 11: "N/A", 16: "cat", 89: "toothbrush"}),
        ("coco91", 91, {0: "__background__", 1: "person", 12: "N/A", 17: "cat", 90: "toothbrush"}),
        ("face", 1, {0: "face"}),
        ("imagenet1k", 1000, {0: "tench", 285: "Egyptian cat", 967: "espresso", 999: "toilet tissue"}),
    ],
)
def test_label_sets_have_the_published_order(name: str, count: int, examples: dict[int, str]) -> None:
    labels = load_labels(name, HERE)
    assert len(labels) == count
    assert {index: labels[index] for index in examples} == examples


def test_every_set_is_tested_above() -> None:
    assert label_set_names() == ("coco80", "coco90", "coco91", "face", "imagenet1k")


def test_coco_sets_agree() -> None:
    named = tuple(label for label in load_labels("coco91", HERE)[1:] if label != "N/A")
    assert load_labels("coco80", HERE) == named
    assert load_labels("coco91", HERE)[1:] == load_labels("coco90", HERE)


def test_a_list_stands_for_itself() -> None:
    assert load_labels(("a", "b"), HERE) == ("a", "b")


def test_a_file_is_looked_up_beside_the_manifest_and_may_start_with_comments(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("# ours\n# since 2024\n first \n#second\n")
    assert load_labels("file:names.txt", tmp_path) == ("first", "#second")


def test_an_unknown_set_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no label set 'coco'.*coco80, .*imagenet1k"):
        load_labels("coco", tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"# only a comment\n", "holds no labels"),
        (b"", "holds no labels"),
        (b"# head\na\n\nb\n", "line 3: expected a class name, found a blank line"),
        (b"\xff\xfe", "cannot read the labels"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        load_labels("file:names.txt", tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the labels in .*absent\.txt"):
        load_labels("file:absent.txt", tmp_path)
