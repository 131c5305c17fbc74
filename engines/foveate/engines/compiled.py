"""What a compiler hands over: an engine's bytes and what can be said about them without running it."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.engines.contract import TensorSpec

__all__ = ["CompiledEngine"]


@dataclass(frozen=True, slots=True)
class CompiledEngine:
    """An engine before it is kept."""

    content: bytes
    """The plan, or the ONNX file."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights_bytes: int
    activation_bytes: int | None
    """Per batch in flight at the largest batch; None where the compiler does not say."""
    timing_cache: bytes = b""
    """To be given to the next build on the same GPU; empty where nothing was measured."""
