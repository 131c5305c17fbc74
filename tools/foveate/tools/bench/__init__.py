"""The load tool: open-loop streams against a server, beside the raw rate of its engine in the same run.

`load` sends frames as the simulation's cameras would, `figures` sums up what became of them; `scenarios` puts these
together, `served` starts the server to be measured, `raw_rate` measures its engine alone.
"""

from __future__ import annotations

from foveate.tools.bench.figures import LoadFigures, figures
from foveate.tools.bench.load import StreamLog, StreamPlan, run_load
from foveate.tools.bench.scenarios import Cameras, Measured, Target, measure

__all__ = ["Cameras", "LoadFigures", "Measured", "StreamLog", "StreamPlan", "Target", "figures", "measure", "run_load"]
