"""A process of the service: started by the supervisor, tied to it by a link, gone when the supervisor is."""

from __future__ import annotations

import ctypes
import logging
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress

from foveate.service.link import Link

__all__ = ["Child", "link_to_supervisor"]

_PR_SET_PDEATHSIG = 1


class Child:
    """A child process and the link to it. Start it in the thread that lives as long as the service."""

    def __init__(self, module: str) -> None:
        """Start `module` as a program. It is spawned afresh, so that it inherits no thread and no lock.

        Raises: OSError if the kernel has no more processes, or files, to give.
        """
        ours, theirs = Link.pair()
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which drains in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(logging.getLogger().getEffectiveLevel())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            undo.pop_all()
        self.link = Link(ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout_s: float) -> None:
        """Give the process so long to end by itself."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def end(self) -> int:
        """Kill the process if it still runs, let go of it, and return its exit code."""
        self._process.kill()
        self.link.close()
        return self._process.wait()


def link_to_supervisor() -> Link:
    """In a child: the link to the supervisor. From now on the process dies with it, even if it hangs."""
    # The kernel sends it when the supervisor's thread that started this process ends, however it ends.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=int(sys.argv[2]), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return Link(socket.socket(fileno=int(sys.argv[1])))
