"""An engine that takes as long as its profile says, give or take."""

from __future__ import annotations

from random import Random

from foveate.engines.profile import LatencyProfile, batch_buckets

__all__ = ["SimulatedEngine"]

_MS_NS = 1_000_000


class SimulatedEngine:
    """One run after the other; each takes `l(b)` times a random factor around 1."""

    def __init__(self, profile: LatencyProfile, noise: float = 0.02, seed: int = 0) -> None:
        self.profile = profile
        self._noise = noise
        self._random = Random(seed)

    @classmethod
    def from_line(
        cls, per_batch_ms: float, per_frame_ms: float, max_batch: int = 32, noise: float = 0.02, seed: int = 0
    ) -> SimulatedEngine:
        """An engine of which a batch of b takes ``per_batch_ms + b * per_frame_ms``."""
        buckets = batch_buckets(max_batch)
        latency_ns = tuple(round((per_batch_ms + per_frame_ms * batch) * _MS_NS) for batch in buckets)
        return cls(LatencyProfile(buckets, latency_ns, latency_ns), noise, seed)

    @property
    def max_batch(self) -> int:
        return self.profile.buckets[-1]

    def capacity_fps(self, batch: int) -> float:
        """Frames per second of an engine that always runs such batches."""
        return batch / self.profile.latency_ns(batch) * 1e9

    def run_ns(self, batch: int) -> int:
        """How long the next run takes."""
        factor = self._random.lognormvariate(0.0, self._noise) if self._noise else 1.0
        return round(self.profile.latency_ns(batch) * factor)
