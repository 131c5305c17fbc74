"""Checkpoints of torch, read as numbers and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from foveate.engines.errors import ModelError

__all__ = ["weights_from_file"]


def weights_from_file(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint by name.

    A checkpoint is a pickle, which can name code to run; one that does is refused.
    Raises: ModelError if it is no checkpoint, or holds more than tensors.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(f"{path.name} is not a checkpoint that holds weights alone: nothing in it was run") from error
    if not isinstance(weights, dict):
        raise ModelError(f"{path.name} holds a {type(weights).__name__}, expected weights by name")
    return weights
