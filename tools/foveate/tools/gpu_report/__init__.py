"""One command that measures a GPU machine: ``python -m foveate.tools.gpu_report``.

`plan` says what is done in which share of the time; `child` does each job in a process of its own, so that a crash in
a driver's library ends one job and not the report; `engine_jobs`, `machine_jobs`, `plan_jobs` and `outside_jobs` are
what jobs do; `tables` shows the result.
"""

from __future__ import annotations

__all__ = ()
