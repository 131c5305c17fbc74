"""An engine that was restarted must say of a known picture what it said before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines.contract import TensorSpec
from foveate.engines.errors import EngineError
from foveate.engines.fake import FakeEngine
from foveate.service.known_answer import KnownAnswer, known_answer, require_same_answer

SCORES = np.linspace(0.1, 0.9, 9, dtype=np.float32)


def answer(scores: NDArray[np.float32] = SCORES, ids: int = 0) -> KnownAnswer:
    return {"scores": scores, "class_ids": np.full(9, ids, np.int64)}


def test_the_same_engine_answers_the_same_and_another_one_does_not() -> None:
    def asked(factor: float) -> KnownAnswer:
        def compute(inputs: Mapping[str, NDArray[Any]], batch: int) -> Mapping[str, NDArray[Any]]:
            return {"mean": inputs["pixels"].reshape(batch, -1)[:, :4].astype(np.float32) * factor}

        outputs = (TensorSpec("mean", np.dtype(np.float32), (4,)),)
        with FakeEngine(outputs=outputs, compute=compute) as engine:
            return known_answer(engine, engine.new_slot())

    require_same_answer("pipeline", asked(1.0), asked(1.0))
    with pytest.raises(EngineError, match="answers a known picture otherwise"):
        require_same_answer("pipeline", asked(1.0), asked(1.5))


def test_rounding_and_candidates_that_change_places_are_forgiven() -> None:
    require_same_answer("pipeline", answer(), answer(SCORES[::-1] + np.float32(1e-3), ids=4))


@pytest.mark.parametrize(
    "other",
    [
        answer(SCORES + np.float32(0.1)),
        answer(np.where(SCORES > 0.8, np.float32(np.nan), SCORES)),
        answer(SCORES[:5]),
        {"class_ids": np.zeros(9, np.int64)},
    ],
    ids=["values", "not a number", "shape", "missing"],
)
def test_what_differs_by_more_is_refused(other: KnownAnswer) -> None:
    with pytest.raises(EngineError, match=r"output scores.*not served"):
        require_same_answer("pipeline", answer(), other)
