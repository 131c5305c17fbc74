"""Jobs in processes of their own: what a job has found is on the disk before it can crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from foveate.engines.errors import FoveateError
from foveate.tools.gpu_report.libraries import preload

__all__ = ["Job", "JobResult", "Keep", "main", "run_job"]

_GRACE_S = 30.0
"""How much longer than its share a job may take before it is killed: loading and building cannot be cut short."""
_SHOWN_CHARACTERS = 4000


class Keep(Protocol):
    """Writes down something found. What is kept under a name before is replaced."""

    def __call__(self, name: str, value: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """A function to be called in a process of its own."""

    name: str
    """For people, and for the file of its log."""
    function: str
    """``module:function``; takes the arguments, the seconds that it may use and a `Keep`."""
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of a job."""

    name: str
    status: str
    """``ok``, ``failed``, ``crashed``, ``out of time`` or ``not run``."""
    seconds: float = 0.0
    why: str = ""
    """Of all but ok: the error, in words."""
    found: dict[str, Any] = field(default_factory=dict)
    """What the job kept, also up to a failure."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_job(job: Job, seconds: float, folder: Path, environment: Mapping[str, str]) -> JobResult:
    """Run a job in a new process and return what became of it; its output goes to a log in `folder`."""
    stem = "".join(letter if letter.isalnum() else "-" for letter in job.name)
    kept, log = folder / f"{stem}.json", folder / f"{stem}.log"
    task = json.dumps({"job": asdict(job), "seconds": seconds, "kept": str(kept)})
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "foveate.tools.gpu_report.child", task],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds + _GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    took = round(time.monotonic() - started, 3)
    found = _read(kept)
    why = str(found.pop("error", ""))
    if code == 0:
        return JobResult(job.name, "failed" if why else "ok", took, why, found)
    if code is None:
        return JobResult(job.name, "out of time", took, f"ended after {took:.0f} s", found)
    return JobResult(job.name, "crashed", took, f"{_ending(code)}; its log ends: {_tail(log)}", found)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a job with all that it started, if anything of it is left."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_SHOWN_CHARACTERS:].strip()


def _read(kept: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def main(arguments: Sequence[str]) -> None:
    """Do the job that the parent wrote into the first argument."""
    task = json.loads(arguments[0])
    job, path = Job(**task["job"]), Path(task["kept"])
    found: dict[str, Any] = {}

    def keep(name: str, value: Any) -> None:
        found[name] = value
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(path)

    for name, complaint in preload(os.environ).items():
        print(f"{name} cannot be loaded: {complaint}")
    module, _, name = job.function.partition(":")
    try:
        function: Callable[[dict[str, Any], float, Keep], None] = getattr(import_module(module), name)
        function(job.arguments, task["seconds"], keep)
    except FoveateError as error:
        keep("error", f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001  # the outer edge of the job: whatever it was belongs into the report
        keep("error", traceback.format_exc()[-_SHOWN_CHARACTERS:])


if __name__ == "__main__":
    main(sys.argv[1:])
