"""The report for people: the same tables on the screen and in a markdown file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

__all__ = ["Table", "markdown", "show", "tables"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title; or only a title and words, where there are no rows."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    words: str = ""


def tables(report: Mapping[str, Any]) -> list[Table]:
    """A report as `foveate.tools.gpu_report` writes it, as tables."""
    made = [_heading(report)]
    for section in report["sections"]:
        made += _SHOWN.get(section["name"], _plain)(section)
    return made


def markdown(made: Iterable[Table]) -> str:
    """The tables as one markdown page."""
    return "\n\n".join(_markdown(table) for table in made) + "\n"


def show(made: Iterable[Table], console: Console) -> None:
    """Print the tables."""
    for table in made:
        console.print(f"\n[bold]{table.title}[/bold]")
        if table.words:
            console.print(table.words, markup=False)
        if table.rows:
            shown = RichTable(*table.columns, box=box.SIMPLE_HEAD, pad_edge=False)
            for row in table.rows:
                shown.add_row(*row)
            console.print(shown, markup=False)


def _markdown(table: Table) -> str:
    parts = [f"## {table.title}"]
    if table.words:
        parts.append(table.words)
    if table.rows:
        lines = [table.columns, ("---",) * len(table.columns), *table.rows]
        parts.append("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _heading(report: Mapping[str, Any]) -> Table:
    return Table(
        "GPU report",
        ("", ""),
        (
            ("date", report["date"]),
            ("command", report["command"]),
            ("took", f"{report['seconds']:.0f} s of {report['minutes']:g} min"),
        ),
    )


def _jobs(section: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for job in section["jobs"]:
        yield job, job["found"]


def _trouble(section: Mapping[str, Any]) -> list[Table]:
    """What did not go well in a section, and why; nothing if all did."""
    rows = [(job["name"], job["status"], _shortened(job["why"])) for job, _ in _jobs(section) if job["status"] != "ok"]
    for job, found in _jobs(section):
        rows += [(job["name"], name, _shortened(str(text))) for name, text in found.items() if name.endswith("_error")]
    words = section["why_empty"] if not section["jobs"] else ""
    if not rows and not words:
        return []
    return [Table(f"{section['title']}: what did not go well", ("job", "status", "why"), tuple(rows), words)]


def _shortened(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _plain(section: Mapping[str, Any]) -> list[Table]:
    rows = tuple((job["name"], job["status"], f"{job['seconds']:.1f} s") for job, _ in _jobs(section))
    return [Table(section["title"], ("job", "status", "took"), rows), *_trouble(section)]


def _machine(section: Mapping[str, Any]) -> list[Table]:
    found = next((found for job, found in _jobs(section) if job["name"] == "facts"), {})
    rows: list[tuple[str, str]] = [("gpu", found.get("gpu") or "none")]
    rows += [(name, str(value)) for name, value in found.get("machine", {}).items() if value]
    rows += [(name, str(value)) for name, value in found.get("nvidia_smi", {}).items()]
    rows += [(name, value) for name, value in found.get("libraries", {}).items()]
    rows += [(f"package {name}", value) for name, value in found.get("packages", {}).items()]
    rows += [
        (f"import {name}", facts.get("version") or facts["why_not"]) for name, facts in found.get("imports", {}).items()
    ]
    return [Table(section["title"], ("what", "found"), tuple(rows)), *_trouble(section)]


def _tests(section: Mapping[str, Any]) -> list[Table]:
    made = []
    for job, found in _jobs(section):
        counts = ", ".join(f"{count} {kind}" for kind, count in found.get("counts", {}).items())
        words = found.get("why_not") or counts or "no result"
        rows = [(name, "failed", _shortened(why)) for name, why in found.get("failed", {}).items()]
        rows += [(f"{count} tests", "skipped", why) for why, count in found.get("skipped", {}).items()]
        made.append(Table(f"{section['title']}: {job['name']}", ("test", "ended", "why"), tuple(rows), words))
    return [*made, *_trouble(section)]


def _copies(section: Mapping[str, Any]) -> list[Table]:
    rows = [
        (size, way, *_copy_cells(figures))
        for _, found in _jobs(section)
        for size, ways in found.get("copies", {}).items()
        for way, figures in ways.items()
    ]
    words = (
        "The thread is kept until the call returns, the whole ends when the bytes are there. Staged: copied into "
        "pinned memory first, which is in both."
    )
    columns = ("size", "memory", "thread us", "whole us", "GB/s", "register us")
    return [*([Table(section["title"], columns, tuple(rows), words)] if rows else []), *_trouble(section)]


def _copy_cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    if "why_not" in figures:
        return (figures["why_not"], "-", "-", "-")
    register_us = figures.get("register_us")
    cells = (f"{figures['thread_us']:.0f}", f"{figures['whole_us']:.0f}", f"{figures['gb_per_s']:.1f}")
    return (*cells, "-" if register_us is None else f"{register_us:.0f}")


def _plans(section: Mapping[str, Any]) -> list[Table]:
    rows = [
        (job["name"], step["step"], f"{step['seconds']:.2f} s", _shortened(step["error"]) or "ok")
        for job, found in _jobs(section)
        for step in found.get("steps", ())
    ]
    rows += [
        (job["name"], f"largest difference of {output}", "", f"{distance:.3g}")
        for job, found in _jobs(section)
        for output, distance in found.get("largest_difference", {}).items()
    ]
    shown = [Table(section["title"], ("engine", "step", "took", "result"), tuple(rows))] if rows else []
    return [*shown, *_trouble(section)]


def _engines(section: Mapping[str, Any]) -> list[Table]:
    latency, overlap, growth = [], [], []
    for job, found in _jobs(section):
        latency += _latency_rows(job["name"], found.get("profile"))
        overlap += [_overlap_row(job["name"], each) for each in found.get("overlap", ())]
        if "shared_inputs" in found:
            shared = found["shared_inputs"]
            how = "read in place" if shared["in_place"] else "copied"
            overlap.append(_overlap_row(f"{job['name']}, shared memory {how}", shared))
        if "growth" in found:
            growth.append(_growth_row(job["name"], found["growth"]))
    made = [
        Table(
            f"{section['title']}: latency and rate",
            ("engine", "batch", "p50 ms", "p99 ms", "p99/p50", "frames/s", "W", "J/frame"),
            tuple(latency),
            "p50 and p99 are of one run at a time; frames/s with as many in flight as the engine allows.",
        ),
        Table(
            f"{section['title']}: batches in flight",
            (
                "engine",
                "batch",
                "in flight",
                "in us",
                "infer us",
                "out us",
                "one/s",
                "all/s",
                "gain",
                "hidden",
                "p99 us",
            ),
            tuple(overlap),
            "in, infer and out are the mean times of one slot alone; one/s and all/s are frames a second with one slot "
            "and with all; hidden is the share of what is not computing that disappears behind computing.",
        ),
        Table(
            f"{section['title']}: memory over many batches",
            ("engine", "batches", "process grew", "GPU grew"),
            tuple(growth),
        ),
    ]
    return [*(each for each in made if each.rows), *_trouble(section)]


def _latency_rows(name: str, profile: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    if profile is None:
        return []
    latency = profile["latency"]
    rates = {rate["batch"]: rate for rate in profile["rates"]}
    columns = zip(latency["buckets"], latency["median_ns"], latency["p99_ns"], latency["measured"], strict=True)
    return [
        (
            name,
            str(batch),
            f"{median / 1e6:.3f}",
            f"{p99 / 1e6:.3f}",
            f"{p99 / max(1, median):.2f}",
            *_rate_cells(rates.get(batch)),
        )
        for batch, median, p99, measured in columns
        if measured
    ]


def _rate_cells(rate: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if rate is None:
        return "-", "-", "-"
    watts = rate["watts"]
    if watts is None:
        return f"{rate['frames_per_s']:.1f}", "-", "-"
    return f"{rate['frames_per_s']:.1f}", f"{watts:.0f}", f"{watts / rate['frames_per_s']:.4f}"


def _overlap_row(name: str, each: Mapping[str, Any]) -> tuple[str, ...]:
    means, hidden = each["mean_us"], each["hidden_share"]
    return (
        name,
        str(each["batch"]),
        str(each["in_flight"]),
        f"{means['copy_in']:.0f}",
        f"{means['infer']:.0f}",
        f"{means['copy_out']:.0f}",
        f"{each['bare_loop_frames_per_s']:.1f}",
        f"{each['in_flight_frames_per_s']:.1f}",
        f"{each['gain']:.2f}",
        "-" if hidden is None else f"{hidden:.0%}",
        f"{each['latency_us']['p99']:.0f}",
    )


def _growth_row(name: str, growth: Mapping[str, Any]) -> tuple[str, ...]:
    grown = growth["grown_bytes"]
    sizes = [f"{grown[meter] / 2**20:+.1f} MiB" if meter in grown else "-" for meter in ("process", "gpu")]
    return (name, str(growth["batches"]), *sizes)


def _load(section: Mapping[str, Any]) -> list[Table]:
    words = []
    for _, found in _jobs(section):
        words.append(str(found.get("why_not") or found.get("output") or "no result"))
    return [Table(section["title"], words="\n".join(_fenced(each) for each in words)), *_trouble(section)]


def _fenced(text: str) -> str:
    return f"```\n{text.strip()}\n```" if "\n" in text.strip() else text


_SHOWN: dict[str, Callable[[Mapping[str, Any]], Sequence[Table]]] = {
    "copies": _copies,
    "engines": _engines,
    "load": _load,
    "machine": _machine,
    "plans": _plans,
    "tests": _tests,
}
