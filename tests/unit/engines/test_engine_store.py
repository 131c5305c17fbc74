from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from foveate.engines import BuiltEngine, EngineError, EngineRecord, EngineStore, EngineUse, PlanMismatch
from foveate.engines.atomic_files import hold_lock
from foveate.engines.engine_record import BatchRecord, capability_fits
from foveate.engines.machine import Machine
from support.engine_records import SOURCE_SHA256, engine_key, engine_profile, engine_record, run_conditions

CONTENT = b"a plan" * 100
USE = EngineUse(SOURCE_SHA256, "1.7.1.116", "sm_89", batch=8)


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


def _put(store: EngineStore, seed: str = "", content: bytes = CONTENT, **changes: object) -> BuiltEngine:
    record = engine_record(content, seed, **changes)
    return store.find_or_build(record.key, lambda: (content, record))


def _never() -> tuple[bytes, EngineRecord]:
    raise AssertionError("this engine is in the store: nothing is to be built")


def test_the_store_lies_in_the_users_cache() -> None:
    assert EngineStore().root == platformdirs.user_cache_path("foveate") / "engines"


def test_an_engine_is_found_again_and_not_rebuilt(store: EngineStore) -> None:
    assert store.find(engine_key("")) is None
    built = _put(store)
    assert built.path == store.root / built.key / "engine.plan"
    assert built.path.read_bytes() == CONTENT
    assert store.find_or_build(built.key, _never) == built == store.find(built.key)


def test_an_onnx_engine_is_called_so(store: EngineStore) -> None:
    assert _put(store, backend="onnxruntime").path.name == "model.onnx"


def test_the_sidecar_is_plain_json(store: EngineStore) -> None:
    value = json.loads(_put(store).path.with_name("engine.json").read_bytes())
    assert value["source_sha256"] == SOURCE_SHA256
    assert value["batch"] == {"min": 1, "opt": 4, "max": 8}
    assert value["inputs"] == [{"name": "pixels", "dtype": "uint8", "shape": [8, 8, 3]}]
    assert value["memory"] == {"weights_bytes": 100, "activation_bytes": 200, "slot_bytes": 1696}
    assert value["built_at"] == "2026-01-02T03:04:05Z"
    assert value["accuracy"] is None
    assert value["profiles"] == []


def test_force_replaces_an_engine(store: EngineStore) -> None:
    built = _put(store)
    record = engine_record(b"another plan")
    again = store.find_or_build(built.key, lambda: (b"another plan", record), force=True)
    assert again.path == built.path
    assert store.open_engine(built.key, USE).path.read_bytes() == b"another plan"
    assert [path.name for path in store.root.iterdir() if path.name != "locks"] == [built.key]


def test_a_build_that_fails_leaves_nothing(store: EngineStore) -> None:
    def fail() -> tuple[bytes, EngineRecord]:
        raise RuntimeError("the compiler fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        store.find_or_build(engine_key(""), fail)
    assert store.engines() == []
    assert store.clean() == []
    assert _put(store).path.is_file()  # the lock was let go


def test_a_damaged_engine_is_built_again(store: EngineStore) -> None:
    built = _put(store)
    built.path.write_bytes(CONTENT[:-1])
    assert store.find(built.key) is None
    assert _put(store).path.read_bytes() == CONTENT


def test_two_threads_that_want_one_engine_build_it_once(store: EngineStore) -> None:
    record = engine_record(CONTENT)
    second_started = threading.Event()
    builds: list[str] = []
    found: list[BuiltEngine] = []

    def build() -> tuple[bytes, EngineRecord]:
        builds.append(threading.current_thread().name)
        assert second_started.wait(10)
        return CONTENT, record

    def ask() -> None:
        found.append(store.find_or_build(record.key, build))

    def ask_second() -> None:
        second_started.set()
        ask()

    threads = [threading.Thread(target=ask), threading.Thread(target=ask_second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(builds) == 1
    assert len(found) == 2
    assert found[0] == found[1]


def test_processes_that_want_one_engine_build_it_once(store: EngineStore, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from foveate.engines import EngineStore
from support.engine_records import engine_record
record = engine_record(b"plan")
def build():
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    return b"plan", record
print(EngineStore(Path(sys.argv[1])).find_or_build(record.key, build).path)
"""
    log = tmp_path / "log"
    command = [sys.executable, "-c", code, str(store.root), str(log)]
    tests = Path(__file__).resolve().parents[2]
    running = [subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = [process.communicate(timeout=30)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert log.read_text() == "built\n"
    assert set(paths) == {str(store.root / engine_key("") / "engine.plan")}


def test_an_engine_that_fits_opens(store: EngineStore) -> None:
    built = _put(store)
    assert store.open_engine(built.key, USE) == built


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (replace(USE, source_sha256="6" * 64), "another ONNX graph .*555555.*666666.*model has changed"),
        (replace(USE, library_version="1.8.0.1"), r"version 1\.7\.1\.116 of tensorrt_rtx, here is version 1\.8\.0\.1"),
        (replace(USE, compute_capability="sm_75"), r"compute capability sm_80\+, here is sm_75"),
        (replace(USE, compute_capability=None), "here is no NVIDIA GPU"),
        (replace(USE, batch=9), "batches of 1 to 8, not 9"),
    ],
    ids=["source", "version", "capability", "no gpu", "batch"],
)
def test_an_engine_that_does_not_fit_is_refused(store: EngineStore, use: EngineUse, message: str) -> None:
    built = _put(store)
    with pytest.raises(PlanMismatch, match=message) as caught:
        store.open_engine(built.key, use)
    assert "foveate build tiny" in str(caught.value)


def test_an_engine_without_a_batch_of_one_is_refused(store: EngineStore) -> None:
    built = _put(store, batch=BatchRecord(min=2, opt=4, max=8))
    with pytest.raises(PlanMismatch, match="as small as 1"):
        store.open_engine(built.key, USE)


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-1], "599 bytes, 600 were written"), (b"x" + CONTENT[1:], "corrupt"), (None, "cannot read")],
    ids=["truncated", "corrupt", "gone"],
)
def test_a_damaged_file_is_refused(store: EngineStore, content: bytes | None, message: str) -> None:
    built = _put(store)
    built.path.unlink()
    if content is not None:
        built.path.write_bytes(content)
    with pytest.raises(PlanMismatch, match=message):
        store.open_engine(built.key, USE)


@pytest.mark.parametrize("damage", ["{", "[]", '{"key": 1}'])
def test_a_damaged_sidecar_is_refused(store: EngineStore, damage: str) -> None:
    built = _put(store)
    built.path.with_name("engine.json").write_text(damage)
    with pytest.raises(PlanMismatch, match="damaged"):
        store.open_engine(built.key, USE)
    assert store.find(built.key) is None


def test_a_sidecar_with_fields_of_a_newer_version_is_refused(store: EngineStore) -> None:
    sidecar = _put(store).path.with_name("engine.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"shard": 3}))
    with pytest.raises(PlanMismatch, match="damaged"):
        store.open_engine(engine_key(""), USE)


def test_an_engine_under_another_key_is_not_found(store: EngineStore) -> None:
    built = _put(store)
    built.path.parent.rename(store.root / engine_key("other"))
    assert store.find(engine_key("other")) is None
    with pytest.raises(PlanMismatch, match="no engine"):
        store.open_engine(engine_key("other"), USE)


@pytest.mark.parametrize(("here", "fits"), [("10.9.0", False), ("10.10.0", True), ("10.12.1", True), ("11.0.0", True)])
def test_a_version_compatible_plan_runs_on_later_versions(store: EngineStore, here: str, fits: bool) -> None:
    built = _put(store, library_version="10.10.0", version_compatible=True)
    use = replace(USE, library_version=here)
    if fits:
        assert store.open_engine(built.key, use) == built
    else:
        with pytest.raises(PlanMismatch, match=r"version 10\.10\.0"):
            store.open_engine(built.key, use)


def test_an_onnx_engine_runs_on_any_version_without_a_gpu(store: EngineStore) -> None:
    built = _put(store, backend="onnxruntime", compute_capabilities=(), library_version="1.20.0")
    assert store.open_engine(built.key, replace(USE, compute_capability=None)) == built


@pytest.mark.parametrize(
    ("here", "built_for", "fits"),
    [
        ("sm_89", ("sm_80", "sm_89"), True),
        ("sm_86", ("sm_80", "sm_89"), False),
        ("sm_120", ("sm_89+",), True),
        ("sm_86", ("sm_89+",), False),
        ("sm_90", ("sm_80+",), True),
        (None, ("sm_80+",), False),
        (None, (), True),
    ],
)
def test_capabilities(here: str | None, built_for: tuple[str, ...], fits: bool) -> None:
    assert capability_fits(here, built_for) is fits


def test_opening_touches_no_backends_library(store: EngineStore) -> None:
    built = _put(store)
    code = f"""
import sys
from pathlib import Path
from foveate.engines import EngineStore, EngineUse
use = EngineUse({SOURCE_SHA256!r}, "1.7.1.116", "sm_89", 8)
print(EngineStore(Path({str(store.root)!r})).open_engine({built.key!r}, use).path)
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path, modules = done.stdout.splitlines()
    assert path == str(built.path)
    assert not {"tensorrt", "tensorrt_rtx", "onnxruntime", "onnx", "cuda"} & set(modules.split())


def test_how_far_it_agrees_is_written_down_later(store: EngineStore) -> None:
    built = _put(store)
    assert built.record.agrees is None
    store.annotate(built.key, accuracy={"cosine": 0.999})
    found = store.open_engine(built.key, USE)
    assert found.record == built.record.model_copy(update={"accuracy": {"cosine": 0.999}})
    assert found.record.agrees is True
    assert store.annotate(built.key, accuracy={"failures": ["too low"]}).record.agrees is False
    with pytest.raises(EngineError, match="no engine"):
        store.annotate(engine_key("missing"), accuracy={})


def test_a_profile_lies_in_the_sidecar_and_goes_with_the_engine(store: EngineStore) -> None:
    built = _put(store)
    profile = engine_profile(median_ms=2)
    store.add_profile(built.key, profile)
    assert store.open_engine(built.key, USE).record.profiles == store.profiles(built.key) == (profile,)
    store.annotate(built.key, accuracy={"cosine": 1})
    assert store.profiles(built.key) == (profile,), "what is written later leaves it alone"
    store.remove(built.key)
    assert store.profiles(built.key) == ()


def test_a_graph_that_is_run_as_it_is_has_profiles_too(store: EngineStore) -> None:
    profile = engine_profile(median_ms=2)
    store.add_profile(SOURCE_SHA256, profile)
    assert store.profiles(SOURCE_SHA256) == (profile,)
    assert store.engines() == []
    assert store.clean() == []
    store.root.joinpath("graphs", f"{SOURCE_SHA256}.json").write_text("[{}]")
    assert store.profiles(SOURCE_SHA256) == (), "a damaged one is measured again"
    with pytest.raises(EngineError, match="64 lower-case hex digits"):
        store.profiles("../../etc")


def test_a_profile_of_another_machine_stays_and_is_not_used(store: EngineStore) -> None:
    here, elsewhere = run_conditions(), run_conditions(machine=Machine(cpu="another", cores=64))
    there = engine_profile(elsewhere, median_ms=1)
    store.add_profile(SOURCE_SHA256, there)
    assert store.find_profile(SOURCE_SHA256, here, 1) is None
    mine = engine_profile(here, median_ms=9)
    store.add_profile(SOURCE_SHA256, mine)
    assert store.find_profile(SOURCE_SHA256, here, 1) == mine
    assert store.find_profile(SOURCE_SHA256, elsewhere, 1) == there


@pytest.mark.parametrize(
    "other", [{"library_version": "2"}, {"threads": 7}, {"precision": "int8"}, {"device": "cuda:1"}, {"backend": "x"}]
)
def test_a_profile_holds_for_its_conditions_alone(store: EngineStore, other: dict[str, Any]) -> None:
    store.add_profile(SOURCE_SHA256, engine_profile(run_conditions()))
    assert store.find_profile(SOURCE_SHA256, run_conditions(), 1)
    assert store.find_profile(SOURCE_SHA256, run_conditions(**other), 1) is None


def test_a_new_profile_replaces_what_it_repeats(store: EngineStore) -> None:
    small, large = (engine_profile(buckets=buckets) for buckets in ((1, 2), (1, 2, 4)))
    store.add_profile(SOURCE_SHA256, large)
    store.add_profile(SOURCE_SHA256, small)
    assert store.profiles(SOURCE_SHA256) == (small, large), "the smaller one tells nothing of larger batches"
    assert store.find_profile(SOURCE_SHA256, run_conditions(), 2) == small
    assert store.find_profile(SOURCE_SHA256, run_conditions(), 3) == large
    assert store.find_profile(SOURCE_SHA256, run_conditions(), 5) is None
    again = engine_profile(buckets=(1, 2, 4), median_ms=3)
    store.add_profile(SOURCE_SHA256, again)
    assert store.profiles(SOURCE_SHA256) == (again,)


def test_engines_come_newest_first_and_by_their_graph(store: EngineStore) -> None:
    old = _put(store, "old", built_at=datetime(2025, 1, 1, tzinfo=UTC))
    new = _put(store, "new", built_at=datetime(2026, 1, 1, tzinfo=UTC))
    other = _put(store, "other", source_sha256="7" * 64, built_at=datetime(2024, 1, 1, tzinfo=UTC))
    assert store.engines() == [new, old, other]
    assert store.engines(SOURCE_SHA256) == [new, old]


def test_a_key_is_found_by_how_it_begins(store: EngineStore) -> None:
    first, second = _put(store, "1"), _put(store, "2")
    assert store.resolve(first.key[:8]) == first
    for prefix in ("", "zz"):
        with pytest.raises(EngineError, match=f"begins with '{prefix}'"):
            store.resolve(prefix)
    store.remove(first.key)
    store.remove(first.key)
    assert store.engines() == [second]


def test_clean_takes_what_is_broken_and_leaves_what_is_not(store: EngineStore) -> None:
    whole, broken = _put(store, "whole"), _put(store, "broken")
    broken.path.write_bytes(b"")
    partial = store.root / f".{engine_key('partial')}.123.0123abcd"
    foreign = store.root / "notes"
    partial.mkdir()
    foreign.mkdir()
    gone = sorted([partial, broken.path.parent])
    assert sorted(store.clean(dry_run=True)) == gone
    assert partial.is_dir()
    assert sorted(store.clean()) == gone
    assert sorted(path.name for path in store.root.iterdir()) == sorted([whole.key, "locks", "notes"])
    assert store.engines() == [whole]


def test_clean_leaves_a_build_that_goes_on(store: EngineStore) -> None:
    partial = store.root / f".{engine_key('')}.123.0123abcd"
    partial.mkdir(parents=True)
    with hold_lock(store.root / "locks" / f"{engine_key('')}.lock"):
        assert store.clean() == []
    assert store.clean() == [partial]


def test_a_timing_cache_is_kept(store: EngineStore) -> None:
    assert store.read_timing_cache("tensorrt-11") == b""
    store.write_timing_cache("tensorrt-11", b"times")
    assert store.read_timing_cache("tensorrt-11") == b"times"
    assert store.engines() == []
    assert store.clean() == []


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = EngineStore(tmp_path / "file" / "engines")
    with pytest.raises(EngineError, match=r"cannot write to the engine store .*name another folder"):
        _put(store)
    assert store.engines() == []


def test_the_builds_own_disk_errors_are_not_the_stores(store: EngineStore) -> None:
    def fail() -> tuple[bytes, EngineRecord]:
        raise OSError("the build's own")

    with pytest.raises(OSError, match="own"):
        store.find_or_build(engine_key(""), fail)


@pytest.mark.parametrize("key", ["", "../x", "A" * 64, "0" * 63])
def test_a_key_is_a_sha256(store: EngineStore, key: str) -> None:
    with pytest.raises(EngineError, match="64 lower-case hex digits"):
        store.find(key)
