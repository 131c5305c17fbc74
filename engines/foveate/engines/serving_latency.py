"""The latency that a scheduler starts from: known of this machine, or measured now."""

from __future__ import annotations

import logging

from foveate.engines.contract import Engine
from foveate.engines.engine_profile import EngineProfile, RunConditions
from foveate.engines.engine_store import EngineStore
from foveate.engines.errors import EngineError
from foveate.engines.profile import LatencyProfile, batch_buckets, measure_profile

__all__ = ["serving_latency"]

_log = logging.getLogger(__name__)


def serving_latency(
    engine: Engine, key: str, store: EngineStore, *, threads: int | None = None, time_limit_s: float
) -> LatencyProfile:
    """The latency of a loaded engine that has run every batch size once: the first run of a shape allocates.

    `key` is the engine's, or the sha256 of a graph that is run as it is. What is measured is kept in the store, or
    measured at each start where that cannot be written. Takes one slot, which stays until the engine closes.
    Raises: what `Engine.run` raises.
    """
    slot = engine.new_slot()
    max_batch = engine.info.max_batch
    for batch in batch_buckets(max_batch):
        engine.run(slot, batch)
    conditions = RunConditions.of(engine.info, threads)
    known = store.find_profile(key, conditions, max_batch)
    if known is not None:
        return known.latency
    latency = measure_profile(engine, slot=slot, time_limit_s=time_limit_s)
    try:
        store.add_profile(key, EngineProfile.measured_now(conditions, latency))
    except EngineError as error:
        _log.warning("the latency of %s is not kept, so the next start measures it again: %s", engine.info.name, error)
    return latency
