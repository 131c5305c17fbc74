"""When a stream that lost its connection tries again, and when it gives up. No clock of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Outage", "Reconnect"]


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a stream comes back after its connection was lost: exponential back-off with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    max_reconnect_s: float = 30.0
    """Seconds of trying in vain after which the stream gives up with `Unreachable`: 0 for no second attempt,
    ``math.inf`` for never."""
    first_delay_s: float = 0.1
    """Upper end of the first random delay; it doubles from one vain attempt to the next."""
    longest_delay_s: float = 5.0
    """What the upper end grows to."""

    def delay_s(self, vain_attempts: int, chance: random.Random) -> float:
        """A random delay before the next attempt, after so many in vain."""
        # The exponent is bounded because a float is: the cap has long been reached by then.
        upper_s = self.first_delay_s * 2.0 ** min(vain_attempts, 32)
        return chance.uniform(0.0, min(self.longest_delay_s, upper_s))


class Outage:
    """The time from a lost connection until answers come again."""

    def __init__(self, policy: Reconnect, chance: random.Random) -> None:
        self._policy = policy
        self._chance = chance
        self._since: float | None = None
        self._vain_attempts = 0

    def next_delay_s(self, now: float) -> float | None:
        """How long to wait before the next attempt; None when it is time to give up."""
        if self._since is None:
            self._since = now
        if now - self._since >= self._policy.max_reconnect_s:
            return None
        delay_s = self._policy.delay_s(self._vain_attempts, self._chance)
        self._vain_attempts += 1
        return delay_s

    def over(self) -> None:
        """A server serves the stream again: the next loss is a new outage."""
        self._since = None
        self._vain_attempts = 0
