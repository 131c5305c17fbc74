"""The version of fusion, apart from it so that a warm start can name a graph without importing onnx."""

from __future__ import annotations

__all__ = ["FUSION_VERSION"]

FUSION_VERSION: int = 1
"""Part of every key under which a fused graph is kept: raise it whenever the graph that `fuse` writes
changes, and older ones are made anew."""
