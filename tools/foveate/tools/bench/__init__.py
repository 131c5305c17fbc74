"""The load tool: open-loop streams against a server, beside the raw rate of its engine in the same run.

`arrivals` says when frames are due, `load` sends them, `figures` sums up what became of them; `scenarios` puts these
together, `served` starts the server to be measured, `raw_rate` measures its engine alone.
"""

from __future__ import annotations

__all__: list[str] = []
