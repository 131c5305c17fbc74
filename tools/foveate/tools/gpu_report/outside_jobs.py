"""Programs of their own that the report runs: the tests of the GPU and the load tool."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import foveate.tools.gpu_report as here
from foveate.tools.gpu_report.child import Keep

__all__ = ["load", "tests"]

_FOVEATE = (sys.executable, "-m", "foveate.tools.cli")
_SHOWN_CHARACTERS = 3000
_INTERRUPTED_S = 15.0
"""To end after an interrupt; less than what a job may take beyond its time."""


def tests(arguments: dict[str, Any], seconds: float, keep: Keep) -> None:
    """Keep what pytest says about some tests, if this is a checkout that has them."""
    root = _checkout()
    if root is None:
        keep("why_not", "this is no checkout: there is no tests/gpu beside the sources")
        return
    missing = [path for path in arguments["paths"] if not (root / path).exists()]
    if missing:
        keep("why_not", f"there is no {', '.join(missing)} in this version")
        return
    report = Path(arguments["work"]) / "tests.xml"
    report.unlink(missing_ok=True)  # of another job
    command = [sys.executable, "-m", "pytest", *arguments["paths"], "-q", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", *(f"--ignore={path}" for path in arguments["without"])]
    keep("command", " ".join(command))
    code, output = _run(command, seconds, root)
    keep("exit_status", code)
    keep("output", output[-_SHOWN_CHARACTERS:])
    if report.is_file():
        for name, value in _summary(report).items():
            keep(name, value)


def _checkout() -> Path | None:
    """The folder of the sources, where tests lie beside them."""
    parents = Path(here.__file__).resolve().parents
    return next((folder for folder in parents if (folder / "tests" / "gpu").is_dir()), None)


def _run(command: list[str], seconds: float, folder: Path | None = None) -> tuple[int | None, str]:
    """The status, None for one that took too long, and what was printed.

    What takes too long is interrupted before it is killed: pytest then writes down what it has.
    """
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        code: int | None = None
        try:
            output, _ = process.communicate(timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=_INTERRUPTED_S)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
    return code, output.decode(errors="replace")


def _summary(report: Path) -> dict[str, Any]:
    """Of a JUnit file: how many tests went how, which failed, and why others were skipped."""
    counts: Counter[str] = Counter()
    failed: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        ending = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if ending is None else ending.tag
        counts[kind] += 1
        message = "" if ending is None else _message(ending)
        if kind == "skipped":
            skipped[message] += 1
        elif kind != "passed":
            failed[f"{case.get('classname')}::{case.get('name')}"] = message[:_SHOWN_CHARACTERS]
    return {"counts": dict(counts), "failed": failed, "skipped": dict(skipped)}


def _message(ending: ElementTree.Element) -> str:
    """Of a whole file that is skipped, pytest writes the reason into the text alone."""
    _, found, reason = (ending.text or "").rpartition("Skipped: ")
    return reason.rstrip("')\"") if found else ending.get("message", "")


def load(arguments: dict[str, Any], seconds: float, keep: Keep) -> None:
    """Keep what the load tool says about the service with an engine that only waits: what the service itself costs."""
    code, _ = _run([*_FOVEATE, "bench", "overload", "--help"], 60)
    if code != 0:
        keep("why_not", "there is no `foveate bench overload` in this version")
        return
    folder = Path(arguments["work"]) / "load"
    each = max(1.0, seconds / 8)
    command = [*_FOVEATE, "bench", "overload", "--fake", "0.5,2", "--loads", "0.5,1,1.5,2"]
    command += ["--seconds", f"{each:.1f}", "--out", str(folder)]
    keep("command", " ".join(command))
    code, output = _run(command, seconds)
    keep("exit_status", code)
    keep("output", output[-_SHOWN_CHARACTERS:])
    result = folder / "result.json"
    if result.is_file():
        keep("result", json.loads(result.read_text(encoding="utf-8")))
