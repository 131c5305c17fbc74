"""What the report is made of, and how the time is shared out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from foveate.tools.gpu_report.child import Job, JobResult

__all__ = [
    "WEIGHTS",
    "Section",
    "copy_section",
    "engine_section",
    "load_section",
    "machine_section",
    "plan_section",
    "run_section",
    "tests_section",
]

_PACKAGE = "foveate.tools.gpu_report"
_COMPILED = ("tensorrt_rtx", "tensorrt")
WEIGHTS = {"machine": 1.0, "tests": 4.0, "copies": 0.5, "plans": 2.0, "engines": 12.0, "load": 2.0}
"""How the time is shared out to the sections, by their names."""
_LEAST_S = 3.0
"""A job with less time than this is not worth beginning."""
_MACHINE_S = 60.0
"""What the first section may take in any case: the others hang on what it finds."""


@dataclass(frozen=True, slots=True)
class Section:
    """Jobs that belong together."""

    name: str
    title: str
    jobs: tuple[Job, ...]
    why_empty: str = ""


def machine_section(work: str, cpu: bool) -> Section:
    """What is there, and the models to measure."""
    return Section(
        "machine",
        "Machine",
        (
            Job("facts", f"{_PACKAGE}.machine_jobs:facts"),
            Job("models", f"{_PACKAGE}.machine_jobs:models", {"work": work, "small": cpu}),
        ),
    )


def tests_section(work: str) -> Section:
    """The tests of the GPU; those of video apart, as they hang on another library and serve frames."""
    name = f"{_PACKAGE}.outside_jobs:tests"
    video = "tests/gpu/test_video_decoding.py"
    return Section(
        "tests",
        "Tests",
        (
            # First, as it is the shorter one: what it leaves of the time is the other's.
            Job("tests of video decoding", name, {"work": work, "paths": [video], "without": []}),
            Job("tests of the GPU", name, {"work": work, "paths": ["tests/gpu"], "without": [video]}),
        ),
    )


def copy_section(facts: dict[str, Any]) -> Section:
    """What copying to this GPU costs, from registered memory and from other."""
    jobs = (Job("copies to the GPU", f"{_PACKAGE}.copy_jobs:copies"),) if facts.get("gpu") else ()
    return Section("copies", "Copies to the GPU", jobs, "there is no NVIDIA GPU here")


def plan_section(work: str, facts: dict[str, Any], models: list[dict[str, str]]) -> Section:
    """Whether compiled engines run here at all: first one for any GPU, then one that is built for this one."""
    jobs = [
        Job(
            f"{backend} for {target} on {model['name']}",
            f"{_PACKAGE}.plan_jobs:try_plan",
            {"backend": backend, "target": target, "work": work, **model},
        )
        for backend in _usable(facts, _COMPILED)
        for target in ("default", "this")
        for model in models[:1]
    ]
    why = "" if facts.get("gpu") else "there is no NVIDIA GPU here"
    return Section(
        "plans",
        "Compiled engines on this GPU",
        tuple(jobs) if not why else (),
        why or "neither tensorrt_rtx nor tensorrt can be imported here; lay their libraries beside it with --libraries",
    )


def engine_section(work: str, facts: dict[str, Any], models: list[dict[str, str]], cpu: bool) -> Section:
    """Every backend that works on every model, in fp16 and fp32, the fastest first in case that time runs out."""
    on_gpu = bool(facts.get("gpu")) and not cpu
    compiled = _usable(facts, _COMPILED) if on_gpu else []
    kinds = [
        (backend, precision) for precision in ("fp16", "fp32") for backend in (*compiled, *_usable(facts, ["torch"]))
    ]
    if not on_gpu:
        kinds = [(backend, "fp32") for backend in _usable(facts, ["onnxruntime", "torch"])]
    jobs = [
        Job(
            f"{model['name']} {precision} on {backend}",
            f"{_PACKAGE}.engine_jobs:measure",
            {"backend": backend, "precision": precision, "max_batch": 32 if on_gpu else 2, "work": work, **model},
        )
        for model in models
        for backend, precision in kinds
    ]
    return Section("engines", "Engines", tuple(jobs), "no backend here can run a model")


def load_section(work: str) -> Section:
    return Section("load", "Service under load", (Job("load tool", f"{_PACKAGE}.outside_jobs:load", {"work": work}),))


def _usable(facts: dict[str, Any], backends: Iterable[str]) -> list[str]:
    imported = facts.get("imports", {})
    return [backend for backend in backends if imported.get(backend, {}).get("version")]


def run_section(
    section: Section,
    seconds: float,
    run: Callable[[Job, float], JobResult],
    clock: Callable[[], float] = time.monotonic,
) -> list[JobResult]:
    """All jobs of a section within its time, each with an even share of what is left of it."""
    end, results = clock() + (max(seconds, _MACHINE_S) if section.name == "machine" else seconds), []
    for number, job in enumerate(section.jobs):
        share = (end - clock()) / (len(section.jobs) - number)
        if share < _LEAST_S:
            results.append(JobResult(job.name, "not run", why="the section's time was over"))
        else:
            results.append(run(job, share))
    return results
