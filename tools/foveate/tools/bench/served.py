"""The server under load: a process tree of its own, or one that runs already; and what it takes of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from foveate.service.embedded import child_server
from foveate.tools.bench.cores import on_cores

__all__ = ["Served", "Usage", "serving"]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a server have taken, and hold now."""

    cpu_s: float
    memory_bytes: int
    """Its own, and what its processes share once. Pages of files, libraries above all, are left out: how much of them
    counts as the server's changes with whatever else runs on the machine."""
    threads: int
    descriptors: int
    processes: int


@dataclass(frozen=True, slots=True)
class Served:
    """A server that can be sent to."""

    address: str
    pid: int | None = None
    """Of its first process; None where it was not started here."""

    def usage(self) -> Usage | None:
        """What its processes take; None where it was not started here."""
        if self.pid is None:
            return None
        parts = [usage for pid in _tree(self.pid) if (usage := _process_usage(pid)) is not None]
        return Usage(
            cpu_s=sum(each.cpu_s for each in parts),
            memory_bytes=sum(each.memory_bytes for each in parts),
            threads=sum(each.threads for each in parts),
            descriptors=sum(each.descriptors for each in parts),
            processes=len(parts),
        )


@contextmanager
def serving(module: str, settings: str, cores: Sequence[int] | None = None) -> Iterator[Served]:
    """Run a module that takes its settings on its standard input and says where it serves, until the block ends.

    Raises: FoveateError with the server's own message if it cannot start.
    """
    with ExitStack() as stack:
        with on_cores(cores):
            child = stack.enter_context(child_server(module, settings))
        yield Served(child.address, child.pid)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has just ended
            for child in children.read_text(encoding="ascii").split():
                yield from _tree(int(child))


def _process_usage(pid: int) -> Usage | None:
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        memory = (folder / "smaps_rollup").read_text(encoding="ascii")
        descriptors = len(list((folder / "fd").iterdir()))
    except OSError:  # it has just ended
        return None
    user, system, threads = int(fields[11]), int(fields[12]), int(fields[17])
    sizes = (line.split() for line in memory.splitlines() if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return Usage((user + system) * _TICK_S, sum(int(size[1]) for size in sizes) * 1024, threads, descriptors, 1)
