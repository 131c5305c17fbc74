"""What a head is given and what it gives: the terms between the fusion and the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from foveate.engines.errors import ModelError
from foveate.models.graph import GraphBuilder
from foveate.models.manifest import HeadSpec, InputSpec

__all__ = ["Head", "HeadInputs", "HeadOutputs", "Tensor"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A float32 output of the model. Shapes: ``shape`` leaves the batch dimension out; a constant has none."""

    name: str
    shape: tuple[int, ...]
    constant: bool = False
    """Whether it is the same for every picture: anchors are."""

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.shape))
        return f"({dims}), a constant" if self.constant else f"(batch, {dims})"


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """The model's outputs by role, and the manifest's word about them."""

    spec: HeadSpec
    input: InputSpec
    tensors: Mapping[str, Tensor]

    def tensor(self, role: str, *shape: int | None, constant: bool = False) -> Tensor:
        """The tensor of a role that the head requires; None in `shape` stands for any length.

        Raises: ModelError if its shape is another.
        """
        tensor = self.tensors[role]
        fits = (tensor.constant, len(tensor.shape)) == (constant, len(shape)) and all(
            expected in (None, length) for expected, length in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            dims = ", ".join("any" if length is None else str(length) for length in shape)
            wanted = f"a constant ({dims})" if constant else f"(batch, {dims})"
            raise ModelError(
                f"head {self.spec.kind!r} expects {role} as {wanted}, but it is {tensor}: check the "
                "manifest's head and input size against the model"
            )
        return tensor


HeadOutputs = Mapping[str, str]
"""Name of an output of the fused graph -> the tensor that becomes it."""


@dataclass(frozen=True, slots=True)
class Head:
    """One kind of head: which tensors it reads and how it writes its part of the graph."""

    append: Callable[[GraphBuilder, HeadInputs], HeadOutputs]
    roles: frozenset[str]
    """Tensors that the manifest must name."""
    optional: frozenset[str] = frozenset()
    """Tensors that it may name."""
