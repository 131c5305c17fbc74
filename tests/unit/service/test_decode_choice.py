"""Where JPEGs are decoded: as the settings say, or as is faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from foveate.engines.contract import EncodedRow, Slot
from foveate.engines.errors import ConfigError, RunFailed
from foveate.engines.fake import FakeEngine
from foveate.service import decode
from foveate.service.batch import BatchSlot
from foveate.service.decode_choice import decodes_on_device
from foveate.service.opening import new_slots
from support.decoding_engine import DecodingEngine
from support.frames import colour_model


class Clock:
    """Goes by what is done."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class TimedEngine(DecodingEngine):
    clock: Clock
    takes_ns: int

    def _place_encoded_impl(self, slot: Slot, rows: Sequence[EncodedRow]) -> list[bool]:
        self.clock.now_ns += self.takes_ns
        return super()._place_encoded_impl(slot, rows)


class Place:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, cpu_ns: int, device_ns: int) -> None:
        self.clock, decode_into = Clock(), decode.decode_into
        self.engine = TimedEngine("timed", input_shape=(24, 32, 3), max_batch=4)
        self.engine.clock, self.engine.takes_ns = self.clock, device_ns
        self.engine.load()
        (self.slot,) = new_slots("timed", self.engine, 1)

        def timed(*arguments: Any) -> Any:
            self.clock.now_ns += cpu_ns
            return decode_into(*arguments)

        monkeypatch.setattr(decode, "decode_into", timed)

    def choice(self, wish: Any) -> bool:
        return decodes_on_device(wish, self.engine, self.slot, colour_model(32, 24), 1, self.clock)


@pytest.mark.parametrize(("device_ns", "on_device"), [(399, True), (400, False), (4000, False)])
def test_auto_takes_the_faster(monkeypatch: pytest.MonkeyPatch, device_ns: int, on_device: bool) -> None:
    place = Place(monkeypatch, cpu_ns=100, device_ns=device_ns)  # of a batch of four
    assert place.choice("auto") is on_device
    assert place.engine.is_open is on_device
    assert place.engine.placed[-1] == [0, 1, 2, 3]


def test_auto_keeps_the_cpu_where_the_device_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch, cpu_ns=100, device_ns=1)
    place.engine.fault = RunFailed("no")
    assert not place.choice("auto")
    assert not place.engine.is_open


def test_auto_keeps_the_cpu_where_the_device_takes_broken_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch, cpu_ns=100, device_ns=1)
    monkeypatch.setattr(TimedEngine, "_decoded", lambda self, row: np.zeros((24, 32, 3), np.uint8))
    assert not place.choice("auto")


def test_the_pixels_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch, cpu_ns=100, device_ns=1)
    on_device: list[Any] = []

    def decoded(self: TimedEngine, row: EncodedRow) -> Any:
        on_device.append(DecodingEngine._decoded(self, row))
        return on_device[-1]

    monkeypatch.setattr(TimedEngine, "_decoded", decoded)
    place.choice("auto")
    assert np.abs(on_device[0].astype(int) - place.slot.pixels[0]).mean() < 12


def test_what_is_wished_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch, cpu_ns=1, device_ns=1000)
    assert not place.choice("cpu")
    assert place.choice("gpu")
    assert place.engine.placed == []


def test_an_engine_that_takes_none_leaves_all_to_the_cpu() -> None:
    engine = FakeEngine("plain")
    engine.load()
    slot: BatchSlot = new_slots("plain", engine, 1)[0]
    assert not decodes_on_device("auto", engine, slot, colour_model(), 1)
    with pytest.raises(ConfigError, match="plain/fake decodes no JPEGs here"):
        decodes_on_device("gpu", engine, slot, colour_model(), 1)
