"""What an engine said of one made-up picture when it was first loaded, and must say again after a crash."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Engine, Slot
from foveate.engines.errors import EngineError
from foveate.engines.random_inputs import random_rows

__all__ = ["KnownAnswer", "known_answer", "require_same_answer"]

KnownAnswer = dict[str, NDArray[Any]]
_TOLERANCE = 1e-2
"""Of the largest value: a device may add up in another order, and candidates may change places."""


def known_answer(engine: Engine, slot: Slot) -> KnownAnswer:
    """The outputs for the picture, by name; a slot that is not in use is overwritten."""
    rng = np.random.default_rng(0)
    for spec in engine.info.inputs:
        slot.inputs[spec.name][:1] = random_rows(spec, 1, rng)
    engine.run(slot, 1)
    return {name: values[0].copy() for name, values in slot.outputs.items()}


def require_same_answer(pipeline: str, expected: KnownAnswer, now: KnownAnswer) -> None:
    """Raises: EngineError if the answers differ by more than rounding."""
    for name, before in expected.items():
        after = now.get(name)
        if after is None or after.shape != before.shape or not _agree(before, after):
            raise EngineError(
                f"the engine of {pipeline} answers a known picture otherwise than before it was restarted (output "
                f"{name}): it is not served; restart the service if the model was changed on purpose"
            )


def _agree(before: NDArray[Any], after: NDArray[Any]) -> bool:
    if np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
        return True
    if before.dtype.kind != "f":
        return True  # classes and indices change places with the scores, which are compared
    ranked_before, ranked_after = np.sort(before, axis=None), np.sort(after, axis=None)
    scale = float(np.abs(ranked_before).max(initial=0.0))
    return bool(np.allclose(ranked_before, ranked_after, rtol=0.0, atol=_TOLERANCE * scale))
