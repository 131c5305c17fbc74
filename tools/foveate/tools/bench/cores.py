"""Which cores the server under load and the load tool run on, so that neither takes the other's time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from foveate.engines.errors import ConfigError

__all__ = ["Cores", "on_cores", "split_cores"]


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the server and the load tool run on; None: any."""

    server: tuple[int, ...] | None
    load: tuple[int, ...] | None


def split_cores(server_cores: int, *, server_is_elsewhere: bool = False) -> Cores:
    """The first cores for the server and the rest for the load tool, so that neither takes the other's time.

    A server that runs already need have none of this process's: where it leaves no others, all of them are the load's.
    Raises: ConfigError where that leaves none for either.
    """
    cores = sorted(os.sched_getaffinity(0))
    if server_is_elsewhere and server_cores >= len(cores):
        return Cores(None, tuple(cores))
    if not 1 <= server_cores < len(cores):
        raise ConfigError(
            f"this process may use {len(cores)} cores: the server can have 1 to {len(cores) - 1} of them, not "
            f"{server_cores}; --pin 0 lets both run anywhere"
        )
    return Cores(tuple(cores[:server_cores]), tuple(cores[server_cores:]))


@contextmanager
def on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """Run on these cores, as will threads and processes that are started inside; None: wherever this process may."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
