"""``python -m foveate.tools.gpu_report``: measure this machine and write report.json and report.md."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from foveate.tools.console import failing_softly
from foveate.tools.gpu_report.child import JobResult, run_job
from foveate.tools.gpu_report.libraries import child_environment, lay_out
from foveate.tools.gpu_report.plan import (
    WEIGHTS,
    Section,
    copy_section,
    engine_section,
    load_section,
    machine_section,
    plan_section,
    run_section,
    tests_section,
)
from foveate.tools.gpu_report.tables import markdown, show, tables
from foveate.tools.written_output import writing

_FILE_WIDTH = 160
"""Characters in a line where no terminal says how many."""


@failing_softly()
def report(
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where report.json, report.md and logs go. Default: one by date."),
    ] = None,
    libraries: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Libraries to use beside what is installed, .xz and wheels too: TensorRT for RTX."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long it may take, shared out to the sections.")] = 20.0,
    cpu: Annotated[bool, typer.Option("--cpu", help="Measure the CPU, small models only; no GPU is touched.")] = False,
) -> None:
    """Measure this machine's GPU: what is there, whether the tests pass, how fast every engine is."""
    began = datetime.now(UTC)
    out = out or Path(f"gpu-report-{began:%Y%m%d-%H%M%S}")
    with writing(out):
        (out / "logs").mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="foveate-report-") as work:
        laid_out = None
        if libraries is not None:
            laid_out = Path(work) / "libraries"
            console.print(f"libraries: {', '.join(lay_out(libraries, laid_out))}", markup=False)
        environment = child_environment(os.environ, laid_out, cpu=cpu)
        sections = _Sections(out, environment, started + minutes * 60, console)
        _run_all(sections, work, cpu)
    found = {
        "date": f"{began:%Y-%m-%d %H:%M} UTC",
        "command": shlex.join([Path(sys.executable).name, "-m", "foveate.tools.gpu_report", *sys.argv[1:]]),
        "minutes": minutes,
        "seconds": round(time.monotonic() - started, 1),
        "sections": sections.finished,
    }
    made = tables(found)
    with writing(out):
        (out / "report.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (out / "report.md").write_text(markdown(made), encoding="utf-8")
    show(made, console)
    console.print(f"\nwritten to {out}", markup=False)


def _run_all(sections: _Sections, work: str, cpu: bool) -> None:
    machine = sections.run(machine_section(work, cpu))
    facts = machine["facts"]
    models = machine["models"].get("models", [])
    sections.run(tests_section(work))
    if not facts.get("gpu") and not cpu:
        sections.say("there is no NVIDIA GPU here: run it with --cpu to measure the CPU instead")
    else:
        sections.run(copy_section({} if cpu else facts))
        sections.run(plan_section(work, facts, models))
        sections.run(engine_section(work, facts, models, cpu))
    sections.run(load_section(work))


class _Sections:
    """Runs sections one after the other, each in its share of the time that is left."""

    def __init__(self, out: Path, environment: Mapping[str, str], end: float, console: Console) -> None:
        self.finished: list[dict[str, Any]] = []
        self._run_job: Callable[..., JobResult] = partial(run_job, folder=out / "logs", environment=environment)
        self._end = end
        self._console = console
        self._waiting = dict(WEIGHTS)

    def run(self, section: Section) -> dict[str, dict[str, Any]]:
        """What the section's jobs found, by their names."""
        whole = sum(self._waiting.values())
        share = max(0.0, self._end - time.monotonic()) * self._waiting.pop(section.name) / whole
        results = run_section(section, share, self._told)
        self.finished.append(
            {
                "name": section.name,
                "title": section.title,
                "why_empty": "" if section.jobs else section.why_empty,
                "jobs": [result.to_json() for result in results],
            }
        )
        return {result.name: result.found for result in results}

    def say(self, words: str) -> None:
        self._console.print(words, markup=False)

    def _told(self, job: Any, seconds: float) -> JobResult:
        self.say(f"{job.name}, {seconds:.0f} s ...")
        result = self._run_job(job, seconds)
        self.say(f"  {result.status} after {result.seconds:.1f} s {result.why.splitlines()[-1] if result.why else ''}")
        return result


if __name__ == "__main__":
    typer.run(report)
