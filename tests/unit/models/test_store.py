import fcntl
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from foveate.engines.errors import ChecksumMismatch, ModelError
from foveate.models import store as store_module
from foveate.models.store import ModelStore, sha256_of_file

CONTENT = b"a model file"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_default_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ModelStore().root == tmp_path / "foveate" / "models"


def test_making_a_store_touches_no_disk(store: ModelStore) -> None:
    assert not store.has_blob(SHA256)
    assert not store.check_blob(SHA256)
    assert store.prepared("key") is None
    assert store.pinned("key") is None
    assert not store.root.exists()


def test_a_blob_is_named_by_what_it_holds(store: ModelStore) -> None:
    seen: list[tuple[int, int | None]] = []
    sha256 = store.add_blob(
        [CONTENT[:5], CONTENT[5:]],
        origin="somewhere",
        expected_sha256=SHA256,
        total_bytes=12,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert sha256 == SHA256
    assert store.blob_path(SHA256).read_bytes() == CONTENT
    assert seen == [(5, 12), (12, 12)]
    assert files_below(store.root) == [f"blobs/{SHA256}"]


def test_a_blob_has_the_users_usual_permissions(store: ModelStore) -> None:
    umask = os.umask(0o022)
    try:
        store.add_blob([CONTENT], origin="somewhere")
    finally:
        os.umask(umask)
    assert store.blob_path(SHA256).stat().st_mode & 0o777 == 0o644


def test_another_file_than_expected_leaves_nothing_behind(store: ModelStore) -> None:
    with pytest.raises(ChecksumMismatch, match=f"somewhere: expected sha256 {'0' * 64}, got {SHA256}"):
        store.add_blob([CONTENT], origin="somewhere", expected_sha256="0" * 64)
    assert files_below(store.root) == []


@pytest.mark.parametrize(("chunks", "total"), [([], None), ([CONTENT], 13), ([CONTENT], 11)])
def test_a_file_of_the_wrong_length_is_refused(store: ModelStore, chunks: list[bytes], total: int | None) -> None:
    with pytest.raises(ModelError, match="somewhere ended after"):
        store.add_blob(chunks, origin="somewhere", total_bytes=total)
    assert files_below(store.root) == []


def test_a_file_over_the_limit_is_refused_before_its_end(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_MODEL_BYTES", 10)
    taken = []

    def chunks() -> Iterator[bytes]:
        for number in range(100):
            taken.append(number)
            yield b"1234"

    with pytest.raises(ModelError, match="somewhere is larger than 10 bytes"):
        store.add_blob(chunks(), origin="somewhere")
    assert len(taken) == 3
    assert files_below(store.root) == []


def test_a_source_that_fails_half_way_leaves_nothing_behind(store: ModelStore) -> None:
    def chunks() -> Iterator[bytes]:
        yield CONTENT
        raise ModelError("the connection broke")

    with pytest.raises(ModelError, match="the connection broke"):
        store.add_blob(chunks(), origin="somewhere")
    assert files_below(store.root) == []


def test_a_damaged_blob_is_found_and_removed(store: ModelStore) -> None:
    store.add_blob([CONTENT], origin="somewhere")
    assert store.check_blob(SHA256)
    store.blob_path(SHA256).write_bytes(CONTENT[:-1] + b"!")
    assert not store.check_blob(SHA256)
    assert not store.has_blob(SHA256)


@pytest.mark.parametrize("name", ["", "abc", "../../etc/passwd", SHA256.upper()])
def test_a_blob_is_asked_for_by_hash_alone(store: ModelStore, name: str) -> None:
    with pytest.raises(ModelError, match="64 lower-case hex digits"):
        store.blob_path(name)


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "x" * 201])
def test_a_key_cannot_leave_its_folder(store: ModelStore, key: str) -> None:
    for use in (store.prepared, store.pinned):
        with pytest.raises(ModelError, match="a store key is"):
            use(key)


def test_a_prepared_graph_comes_with_its_facts(store: ModelStore) -> None:
    path = store.add_prepared("key", b"graph", {"name": "tiny"})
    assert store.prepared("key") == path
    assert path.read_bytes() == b"graph"
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts == {"name": "tiny", "bytes": 5, "sha256": hashlib.sha256(b"graph").hexdigest()}


def test_a_prepared_graph_without_its_sidecar_or_of_another_size_does_not_count(store: ModelStore) -> None:
    path = store.add_prepared("key", b"graph", {})
    path.write_bytes(b"grap")
    assert store.prepared("key") is None
    path.write_bytes(b"graph")
    path.with_suffix(".json").unlink()
    assert store.prepared("key") is None
    store.add_prepared("key", b"graph", {})
    path.unlink()
    assert store.prepared("key") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_pin_counts_as_none(store: ModelStore, content: bytes) -> None:
    store.pin("key", SHA256)
    (store.root / "pins" / "key.json").write_bytes(content)
    assert store.pinned("key") is None


def test_pins_are_read_back_unless_damaged(store: ModelStore) -> None:
    store.pin("key", SHA256)
    assert store.pinned("key") == SHA256
    (store.root / "pins" / "key.json").write_text('{"sha256": "../../x"}')
    assert store.pinned("key") is None


def test_a_root_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store's folder should be")
    store = ModelStore(tmp_path / "store")
    for write in (lambda: store.add_blob([CONTENT], origin="x"), lambda: store.pin("key", SHA256)):
        with pytest.raises(ModelError, match="cannot write to the model store"):
            write()
    with pytest.raises(ModelError, match="cannot write to the model store"), store.lock("key"):
        pass


def test_a_lock_is_held_alone_until_its_block_ends(store: ModelStore) -> None:
    def try_to_take_it() -> None:
        with (store.root / "locks" / "key.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with store.lock("key"), store.lock("another"), pytest.raises(BlockingIOError):
        try_to_take_it()
    try_to_take_it()


def _add_many(root: Path, rounds: int) -> None:
    store = ModelStore(root)
    for _ in range(rounds):
        store.add_blob([CONTENT], origin="somewhere", expected_sha256=SHA256)
        store.add_prepared("key", CONTENT * 1000, {})
        found = store.prepared("key")
        assert found is None or found.read_bytes() == CONTENT * 1000


def test_two_processes_may_write_the_same_files_at_once(store: ModelStore) -> None:
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_add_many, args=(store.root, 20)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert files_below(store.root) == [f"blobs/{SHA256}", "prepared/key.json", "prepared/key.onnx"]


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    assert sha256_of_file(tmp_path / "file") == SHA256
    with pytest.raises(ModelError, match="cannot read the model file"):
        sha256_of_file(tmp_path / "absent")
