"""What every command says in the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from foveate.engines.errors import FoveateError

__all__ = ["failing_softly"]


@contextmanager
def failing_softly() -> Iterator[None]:
    """End the command with ``error: ...`` on stderr and status 1 where it raises one of our own errors.

    A ``with`` block and a decorator. Any other exception is a fault of ours and keeps its traceback.
    """
    try:
        yield
    except FoveateError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
