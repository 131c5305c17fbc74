"""What goes wrong while a command writes its output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import UnsupportedOperation
from pathlib import Path

from foveate.engines.errors import ConfigError

__all__ = ["STANDARD_OUTPUT", "writing"]

STANDARD_OUTPUT = Path("-")
_READER_GONE = 141
"""What a shell reports of a program that SIGPIPE ended."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into an error message, and a reader who has seen enough into a quiet end.

    Raises: ConfigError if it cannot be written; SystemExit if standard output is a pipe that nobody reads any more.
    """
    try:
        yield
    except OSError as error:
        if path == STANDARD_OUTPUT:
            _discard_standard_output()
            if isinstance(error, BrokenPipeError):
                raise SystemExit(_READER_GONE) from None
        name = "standard output" if path == STANDARD_OUTPUT else str(path)
        raise ConfigError(f"cannot write {name}: {error.strerror}") from error


def _discard_standard_output() -> None:
    """Let the interpreter flush what it could not write into nothing, instead of failing once more at its end."""
    with suppress(UnsupportedOperation):  # replaced by an object without a file below it: nothing to flush
        descriptor = sys.stdout.fileno()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)
