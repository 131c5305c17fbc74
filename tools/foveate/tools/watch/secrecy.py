"""What a program writes about itself, without the secrets of its cameras: its log, and its faults."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from foveate.engines.errors import FoveateError
from foveate.tools.watch.address import Redaction

__all__ = ["secrets_kept"]


class _Handler(logging.Handler):
    """Writes to what is standard error at that moment: a table on a terminal takes its place, to stay below the log."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._redact = redact

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self._redact(self.format(record)), file=sys.stderr)
        except Exception:  # noqa: BLE001 - nothing that is logged may harm who logs it, nor be shown as it is
            return


@contextmanager
def secrets_kept(redact: Redaction) -> Iterator[None]:
    """Let the log, errors and faults reach stderr through `redact` alone; a fault ends the program with status 1."""
    handler = _Handler(redact)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except FoveateError as error:
        raise FoveateError(redact(str(error))) from None
    except Exception:  # noqa: BLE001 - the program's outer edge: Python would print the secrets
        print(redact(traceback.format_exc()), file=sys.stderr, end="")
        raise SystemExit(1) from None
    finally:
        root.removeHandler(handler)
