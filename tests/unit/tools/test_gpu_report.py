"""The GPU report: nothing that a job does ends it, and what was found is shown."""

from __future__ import annotations

import json
import lzma
import os
import select
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import foveate.tools.gpu_report.__main__ as command
from foveate.engines import ConfigError, FakeEngine, RunTimes, Slot
from foveate.engines.machine import gpu_of
from foveate.tools.gpu_report import (
    child,
    copy_jobs,
    engine_jobs,
    libraries,
    machine_jobs,
    outside_jobs,
    plan,
    plan_jobs,
)
from foveate.tools.gpu_report.child import Job, JobResult, run_job
from foveate.tools.gpu_report.engine_jobs import FlightRecord
from foveate.tools.gpu_report.plan import (
    Section,
    copy_section,
    engine_section,
    plan_section,
    run_section,
)
from foveate.tools.gpu_report.shared_pages import shared_pages
from foveate.tools.gpu_report.tables import markdown, show, tables
from support.fake_cuda import FakeCuda
from support.models import COLOUR_MEAN
from support.networks import small_classifier
from support.waiting import until

TESTS = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS)}
MODEL = {"name": "tiny", "path": "tiny.onnx"}
IMPORTED = {"version": "1.0"}


def ended(function: str, folder: Path, seconds: float = 30.0, **arguments: Any) -> JobResult:
    return run_job(Job("the job", f"support.report_jobs:{function}", arguments), seconds, folder, ENVIRONMENT)


class Kept(dict[str, Any]):
    """A `Keep` that remembers."""

    def __call__(self, name: str, value: Any) -> None:
        self[name] = json.loads(json.dumps(value))


def test_a_job_that_goes_well(tmp_path: Path) -> None:
    result = ended("succeed", tmp_path, seconds=20, number=21)
    assert (result.status, result.why) == ("ok", "")
    assert result.found == {"doubled": 42, "seconds": 20}


@pytest.mark.parametrize(
    ("function", "why"),
    [("refuse", "EngineUnavailable: no such device"), ("break_down", "ZeroDivisionError: a fault of ours")],
)
def test_a_job_that_fails_says_why(function: str, why: str, tmp_path: Path) -> None:
    result = ended(function, tmp_path)
    assert result.status == "failed"
    assert why in result.why


def test_a_crash_keeps_what_was_found_and_shows_the_log(tmp_path: Path) -> None:
    result = ended("die", tmp_path)
    assert result.status == "crashed"
    assert "SIGSEGV" in result.why
    assert "the driver said this" in result.why
    assert result.found == {"before": 1}


def test_a_job_that_hangs_is_killed_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(subprocess.Popen[bytes]):
        """Its time is over as soon as the job has said what it started."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            while "child" not in child._read(tmp_path / "the-job.json"):
                assert self.poll() is None, "the job ended by itself"
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(subprocess, "Popen", Impatient)
    result = ended("hang", tmp_path)
    assert result.status == "out of time"
    assert _ends(result.found["child"])


def _ends(pid: int) -> bool:
    """Whether a process is over, or is so soon: the kernel takes a moment over what was killed."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 30.0)[0])
    finally:
        os.close(handle)


def test_a_section_shares_its_time_out() -> None:
    now, given = [0.0], []

    def run(job: Job, seconds: float) -> JobResult:
        given.append(seconds)
        now[0] += {"slow": 70.0}.get(job.name, 10.0)
        return JobResult(job.name, "ok")

    jobs = tuple(Job(name, "no:function") for name in ("quick", "slow", "third", "last"))
    results = run_section(Section("engines", "Engines", jobs), 80.0, run, lambda: now[0])
    assert given == [20.0, pytest.approx(70 / 3)]
    assert [result.status for result in results] == ["ok", "ok", "not run", "not run"]


def test_what_the_machine_is_is_always_told() -> None:
    given: list[float] = []

    def run(job: Job, seconds: float) -> JobResult:
        given.append(seconds)
        return JobResult(job.name, "ok")

    run_section(Section("machine", "Machine", (Job("facts", "no:function"),)), 0.0, run, lambda: 0.0)
    assert given == [60.0]


def test_compiled_engines_are_tried_for_any_gpu_before_this_one() -> None:
    section = plan_section("work", {"gpu": "H200", "imports": {"tensorrt_rtx": IMPORTED}}, [MODEL])
    assert [job.arguments["target"] for job in section.jobs] == ["default", "this"]


@pytest.mark.parametrize(
    ("facts", "why"),
    [({"imports": {"tensorrt_rtx": IMPORTED}}, "no NVIDIA GPU"), ({"gpu": "H200", "imports": {}}, "--libraries")],
)
def test_without_a_gpu_or_a_library_no_plan_is_tried(facts: dict[str, Any], why: str) -> None:
    section = plan_section("work", facts, [MODEL])
    assert section.jobs == ()
    assert why in section.why_empty


def test_engines_are_those_of_backends_that_can_be_imported() -> None:
    imports = {"tensorrt_rtx": IMPORTED, "torch": IMPORTED, "tensorrt": {"why_not": "no"}, "onnxruntime": IMPORTED}
    on_gpu = engine_section("work", {"gpu": "H200", "imports": imports}, [MODEL], cpu=False)
    kinds = [(job.arguments["backend"], job.arguments["precision"]) for job in on_gpu.jobs]
    assert kinds == [("tensorrt_rtx", "fp16"), ("torch", "fp16"), ("tensorrt_rtx", "fp32"), ("torch", "fp32")]
    assert {job.arguments["max_batch"] for job in on_gpu.jobs} == {32}
    on_cpu = engine_section("work", {"gpu": "H200", "imports": imports}, [MODEL], cpu=True)
    assert [job.arguments["backend"] for job in on_cpu.jobs] == ["onnxruntime", "torch"]


def test_libraries_are_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "libone.so.1").write_bytes(b"one")
    (source / "libtwo.so.1.xz").write_bytes(lzma.compress(b"two"))
    with zipfile.ZipFile(source / "bindings-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("bindings/core.so", b"core")
    target = tmp_path / "target"
    assert libraries.lay_out(source, target) == ["bindings", "libone.so.1", "libtwo.so.1"]
    assert (target / "libone.so.1").read_bytes() == b"one"
    assert (target / "libtwo.so.1").read_bytes() == b"two"
    environment = libraries.child_environment({"LD_LIBRARY_PATH": "/old"}, target, cpu=False)
    assert environment["LD_LIBRARY_PATH"].split(":") == [str(target), str(target / "bindings"), "/old"]
    assert environment["PYTHONPATH"] == str(target)


def test_a_damaged_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "lib.so.xz").write_bytes(lzma.compress(b"two" * 99)[:-20])
    with pytest.raises(ConfigError, match=r"lib\.so\.xz cannot be unpacked"):
        libraries.lay_out(tmp_path, tmp_path / "target")


def test_libraries_load_whatever_the_order_that_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"liba.so": "libb.so", "libb.so": "libc.so", "libc.so": "", "libd.so": "missing"}
    for name in needs:
        (tmp_path / name).touch()
    loaded: list[str] = []

    def load(path: Path) -> str:
        if needs[path.name] and needs[path.name] not in loaded:
            return f"{needs[path.name]} is not there"
        loaded.append(path.name)
        return ""

    monkeypatch.setattr(libraries, "_load", load)
    environment = libraries.child_environment({}, tmp_path, cpu=False)
    assert libraries.preload(environment) == {"libd.so": "missing is not there"}
    assert loaded == ["libc.so", "libb.so", "liba.so"]


def test_the_cpu_alone_hides_every_gpu() -> None:
    assert libraries.child_environment({}, None, cpu=True)["CUDA_VISIBLE_DEVICES"] == ""
    assert libraries.preload({}) == {}


def test_facts_are_kept_on_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_jobs, "_MODULES", ("onnxruntime", "no_such_module"))
    monkeypatch.setattr(machine_jobs, "_LIBRARIES", ("libc.so.6", "libnothing.so.9"))
    kept = Kept()
    machine_jobs.facts({}, 10.0, kept)
    assert kept["packages"]["numpy"] == np.__version__
    assert kept["imports"]["onnxruntime"]["version"]
    assert "no_such_module" in kept["imports"]["no_such_module"]["why_not"]
    assert kept["libraries"]["libc.so.6"] == "ok"
    assert "libnothing" in kept["libraries"]["libnothing.so.9"]


def test_an_engine_is_measured(tmp_path: Path) -> None:
    path = COLOUR_MEAN.save(tmp_path)
    arguments = {"backend": "onnxruntime", "precision": "fp32", "max_batch": 2, "work": str(tmp_path)}
    kept = Kept()
    engine_jobs.measure({**arguments, "name": "mean", "path": str(path)}, 1.0, kept)
    assert kept["engine"]["device"] == "cpu"
    assert kept["profile"]["latency"]["buckets"] == [1, 2]
    assert [each["batch"] for each in kept["overlap"]] == [1, 2]
    assert kept["shared_inputs"]["in_place"]
    assert kept["shared_inputs"]["batch"] == 2
    assert kept["growth"]["batches"] >= 10
    assert len(kept["growth"]["readings_bytes"]["process"]) == 11
    assert not any(name.endswith("_error") for name in kept)


def test_a_failed_measurement_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(engine_jobs, "profile_engine", broken)
    path = COLOUR_MEAN.save(tmp_path)
    arguments = {"backend": "onnxruntime", "precision": "fp32", "max_batch": 2, "work": str(tmp_path)}
    kept = Kept()
    engine_jobs.measure({**arguments, "name": "mean", "path": str(path)}, 1.0, kept)
    assert "ZeroDivisionError" in kept["profile_error"]
    assert {"overlap", "growth"} <= set(kept)


def flight(slot: int, started_ms: int, ended_ms: int) -> FlightRecord:
    return FlightRecord(slot, started_ms * 10**6, ended_ms * 10**6, RunTimes(2 * 10**6, 6 * 10**6, 2 * 10**6))


@pytest.mark.parametrize(
    ("together", "hidden", "gain"),
    [
        pytest.param([flight(0, 0, 10), flight(1, 0, 12)], 1.0, 10 / 6, id="copies cost nothing"),
        pytest.param([flight(0, 0, 10), flight(1, 10, 20)], 0.0, 1.0, id="one after the other"),
        pytest.param([flight(0, 0, 10), flight(1, 6, 16)], 0.5, 10 / 8, id="half"),
    ],
)
def test_what_is_hidden_behind_computing(together: list[FlightRecord], hidden: float, gain: float) -> None:
    alone = [flight(0, 0, 10), flight(0, 10, 20)]
    figures = engine_jobs._overlap_figures(4, 2, alone, together)
    assert figures["hidden_share"] == pytest.approx(hidden)
    assert figures["gain"] == pytest.approx(gain, abs=1e-3)
    assert figures["bare_loop_frames_per_s"] == pytest.approx(400)


def test_flights_of_all_slots_are_recorded() -> None:
    clock = iter(range(0, 10**12, 10**8))
    with FakeEngine(input_shape=(2, 2, 3), max_batch=2, max_in_flight=2, latency_s=lambda _: 0.0) as engine:
        slots = [engine.new_slot(), engine.new_slot()]
        records = engine_jobs.record_flights(engine, slots, 2, 1.0, lambda: next(clock))
    assert {record.slot for record in records} == {0, 1}
    assert all(record.started_ns < record.ended_ns for record in records)
    assert [record.started_ns for record in records] == sorted(record.started_ns for record in records)


def test_a_plan_is_tried_step_by_step_until_one_fails(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    path = tmp_path / "small.onnx"
    onnx.save(small_classifier(), path)
    arguments = {"backend": "tensorrt_rtx", "target": "default", "work": str(tmp_path), "name": "small"}
    kept = Kept()
    plan_jobs.try_plan({**arguments, "path": str(path)}, 10.0, kept)
    steps = {step["step"]: step["error"] for step in kept["steps"]}
    assert steps["build"] == ""
    if not gpu_of(0):
        assert list(steps) == ["build", "load"]
        assert steps["load"].startswith("EngineUnavailable: ")


def test_the_tests_results_are_summed_up(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite><testcase classname='a' name='one'/><testcase classname='a' name='two'>"
        "<failure message='assert 1 == 2'/></testcase><testcase classname='a' name='three'>"
        "<skipped message='no GPU'>a.py:3: no GPU</skipped></testcase><testcase classname='' name='b'>"
        "<skipped message='collection skipped'>('b.py', 7, 'Skipped: no torch')</skipped></testcase>"
        "</testsuite></testsuites>"
    )
    assert outside_jobs._summary(report) == {
        "counts": {"passed": 1, "failure": 1, "skipped": 2},
        "failed": {"a::two": "assert 1 == 2"},
        "skipped": {"no GPU": 1, "no torch": 1},
    }


def test_without_a_checkout_there_are_no_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_jobs, "_checkout", lambda: None)
    kept = Kept()
    outside_jobs.tests({"work": ".", "paths": ["tests/gpu"], "without": []}, 1.0, kept)
    assert "no checkout" in kept["why_not"]


def test_tests_that_this_version_has_not_are_left_out() -> None:
    kept = Kept()
    outside_jobs.tests({"work": ".", "paths": ["tests/gpu/test_of_tomorrow.py"], "without": []}, 1.0, kept)
    assert "no tests/gpu/test_of_tomorrow.py" in kept["why_not"]


def test_every_test_of_the_gpu_is_in_one_job() -> None:
    video, everything = (job.arguments for job in plan.tests_section("work").jobs)
    assert everything["paths"] == ["tests/gpu"]
    assert everything["without"] == video["paths"]


@pytest.mark.parametrize("refused", [False, True])
def test_copies_are_measured_in_every_way(refused: bool) -> None:
    cuda = FakeCuda()
    device = cuda.open()
    with device.current():
        if refused:
            cuda.fail("host_register", 800)
        found = copy_jobs.measure_copies(device, 4096, 0.01)
    assert set(found) == {"pinned", "not registered", "staged", "registered"}
    assert cuda.staged == ["copy to device"] * (found["not registered"]["rounds"] + 1), "all others are asynchronous"
    assert cuda.leaks == []
    if refused:
        assert "(800)" in found["registered"]["why_not"]
    else:
        assert found["registered"]["gb_per_s"] > 0
    assert copy_section({}).jobs == ()
    job = {"name": "copies", "status": "ok", "seconds": 1.0, "why": "", "found": {"copies": {"4 KiB": found}}}
    section = {"name": "copies", "title": "Copies", "jobs": [job], "why_empty": ""}
    _, table = tables({"date": "", "command": "", "seconds": 1, "minutes": 1, "sections": [section]})
    assert [row[:2] for row in table.rows] == [("4 KiB", way) for way in found]
    assert len({len(row) for row in table.rows}) == 1
    if refused:
        assert "(800)" in table.rows[-1][2]


def test_shared_memory_that_an_engine_does_not_read_is_copied_for_it() -> None:
    class Apart(FakeEngine):
        def _new_slot_over_impl(self, index: int, inputs: Any) -> Slot:
            return self._new_slot_impl(index)

    with Apart(input_shape=(2, 2, 3), max_batch=2, max_in_flight=2) as engine:
        given = [{"pixels": shared_pages((2, 2, 2, 3), np.uint8)} for _ in range(2)]
        found = engine_jobs.shared_inputs(engine, given, 0.01)
    assert not found["in_place"]
    assert found["in_flight"] == 2


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The code with which a program says that it has begun: from then on it takes too long."""
    sign, too_long_s = tmp_path / "begun", 3.0

    class Impatient(subprocess.Popen[bytes]):
        def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
            if timeout != too_long_s:
                return super().communicate(input, timeout)
            until(sign.exists, "the program has begun")
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(subprocess, "Popen", Impatient)
    return f"open({str(sign)!r}, 'w').close()"


def test_a_program_that_takes_too_long_may_write_down_what_it_has(begun: str) -> None:
    """As pytest does when it is interrupted; one that does not end is killed."""
    polite = f"import threading\ntry: {begun}; threading.Event().wait()\nexcept KeyboardInterrupt: print('so far: 7')"
    code, output = outside_jobs._run([sys.executable, "-c", polite], 3.0)
    assert (code, "so far: 7" in output) == (None, True)


def test_a_program_that_does_not_end_is_killed(begun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_jobs, "_INTERRUPTED_S", 0.1)
    deaf = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf', flush=True)\n{begun}\n"
    assert outside_jobs._run([sys.executable, "-c", f"{deaf}signal.pause()"], 3.0) == (None, "deaf\n")


def test_without_the_load_tool_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_jobs, "_run", lambda *_: (2, "no such command"))
    kept = Kept()
    outside_jobs.load({"work": "."}, 1.0, kept)
    assert "no `foveate bench overload`" in kept["why_not"]


FOUND: dict[str, dict[str, Any]] = {
    "facts": {
        "gpu": "",
        "machine": {"cpu": "a CPU", "cores": 2},
        "nvidia_smi": {"why_not": "there is no nvidia-smi here"},
        "imports": {"onnxruntime": IMPORTED, "torch": {"why_not": "No module | here"}},
    },
    "models": {"models": [MODEL]},
    "tests of video decoding": {"why_not": "there is no tests/gpu/test_video_decoding.py in this version"},
    "tests of the GPU": {"counts": {"skipped": 3}, "failed": {}, "skipped": {"no GPU": 3}},
    "tiny fp32 on onnxruntime": {
        "profile": {
            "latency": {"buckets": [1, 2], "median_ns": [10**6, 2 * 10**6], "p99_ns": [15 * 10**5, 4 * 10**6],
                        "measured": [True, False]},
            "rates": [{"batch": 1, "in_flight": 1, "frames_per_s": 900.0, "watts": 90.0}],
        },
        "overlap": [engine_jobs._overlap_figures(4, 2, [flight(0, 0, 10)], [flight(0, 0, 10), flight(1, 6, 16)])],
        "shared_inputs": {"in_place": True}
        | engine_jobs._overlap_figures(4, 1, [flight(0, 0, 10)], [flight(0, 0, 10)]),
        "growth": {"batches": 50, "readings_bytes": {}, "grown_bytes": {"process": 1 << 20}},
        "overlap_error": "ZeroDivisionError",
    },
    "load tool": {"why_not": "there is none"},
}  # fmt: skip


def answering(job: Job, _seconds: float, **_: Any) -> JobResult:
    return JobResult(job.name, "ok", 1.0, "", FOUND[job.name])


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    """Run the command with jobs that find what `FOUND` says; returns what was printed and the report's folder."""
    monkeypatch.setattr(command, "run_job", answering)
    app = typer.Typer()
    app.command()(command.report)

    def run(*arguments: str) -> tuple[str, Path]:
        out = tmp_path / "out"
        done = CliRunner().invoke(app, [*arguments, "--out", str(out)])
        assert done.exit_code == 0, done.output
        return done.output, out

    return run


def test_the_report_is_written_for_programs_and_for_people(invoke: Callable[..., tuple[str, Path]]) -> None:
    printed, out = invoke("--cpu", "--minutes", "5")
    report = json.loads((out / "report.json").read_text())
    names = [section["name"] for section in report["sections"]]
    assert names == ["machine", "tests", "copies", "plans", "engines", "load"]
    assert report["command"].startswith("python")
    page = (out / "report.md").read_text()
    assert "| tiny fp32 on onnxruntime | 1 | 1.000 | 1.500 | 1.50 | 900.0 | 90 | 0.1000 |" in page
    assert "| tiny fp32 on onnxruntime | 4 | 2 | 2000 | 6000 | 2000 | 400.0 | 500.0 | 1.25 | 50% |" in page
    assert "| import torch | No module \\| here |" in page
    assert "overlap_error | ZeroDivisionError" in page
    assert "there is no NVIDIA GPU here" in page
    assert "written to" in printed


def test_a_machine_without_a_gpu_says_so_and_measures_nothing(invoke: Callable[..., tuple[str, Path]]) -> None:
    printed, out = invoke("--minutes", "5")
    assert "no NVIDIA GPU here: run it with --cpu" in printed
    report = json.loads((out / "report.json").read_text())
    assert [section["name"] for section in report["sections"]] == ["machine", "tests", "load"]


def test_markup_in_what_was_found_is_printed_as_it_is() -> None:
    section = {"name": "load", "title": "Load", "why_empty": "", "jobs": [
        {"name": "load tool", "status": "crashed", "seconds": 1.0, "why": "[/bold] in a log", "found": {}}
    ]}  # fmt: skip
    made = tables({"date": "now", "command": "it", "seconds": 1, "minutes": 1, "sections": [section]})
    console = Console(width=120, record=True)
    show(made, console)
    assert "[/bold] in a log" in console.export_text()
    assert "[/bold] in a log" in markdown(made)
