"""The engine process of a service whose fake engine is called by what the engine store has for the GPU it sees.

The environment says where the graph and the store lie.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from foveate.engines import EngineStore, engine_choice
from foveate.engines.contract import EngineInfo
from foveate.engines.engine_choice import EngineWish, choose_engine
from foveate.engines.fake import FakeEngine
from foveate.service import engine_process
from foveate.service.config import ServiceConfig
from foveate.service.opening import NewSlots, Opened
from support.service import fake_engine, fake_opening

__all__: list[str] = []


class _Chosen(FakeEngine):
    def _load_impl(self) -> EngineInfo:
        chosen = choose_engine(
            Path(os.environ["GRAPH"]), "tiny", EngineWish("tensorrt", "fp16", 8), EngineStore(Path(os.environ["STORE"]))
        )
        return replace(super()._load_impl(), name=chosen.key[:12])


def _opening(config: ServiceConfig, make_slots: NewSlots) -> Opened:
    return fake_opening(fake_engine(kind=_Chosen), 1.0, {})(config, make_slots)


if __name__ == "__main__":
    engine_choice.tensorrt_library = lambda _: SimpleNamespace(__version__="11.4")  # type: ignore[attr-defined,assignment]
    engine_process.main(_opening)
