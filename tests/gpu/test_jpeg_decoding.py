"""JPEGs decoded on a GPU into an engine's input, against the CPU decoder: the same pixels, the same verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines import (
    EncodedRow,
    EngineUnavailable,
    Slot,
)
from foveate.engines.cuda.jpeg_decoder import image_codec
from foveate.engines.tensorrt_engine import TensorRtEngine
from foveate.models.package import PreparedModel
from foveate.service.batch import BatchSlot
from foveate.service.decode import decode_into, leave_encoded, sample_jpeg
from foveate.service.decode_choice import decodes_on_device
from foveate.service.frame import PixelFormat
from support.echo_engine import echo_engine
from support.frames import colour_model, encoded, smooth_picture

WIDTH, HEIGHT = 320, 192
MAX_BATCH = 4
LEVELS = 6
"""Grey levels by which two decoders' chroma upsampling may differ at most pixels."""

Pixels = NDArray[np.uint8]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[TensorRtEngine]:
    """One that answers its input's pixels; skips where there is none, or nothing that decodes."""
    try:
        image_codec()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    with echo_engine(tmp_path, (WIDTH, HEIGHT), MAX_BATCH) as made:
        if not made.open_decoder():
            pytest.skip("nvImageCodec or NVRTC cannot be used on this GPU")
        yield made


def asked(data: bytes, row: int, size: tuple[int, int]) -> EncodedRow:
    left = leave_encoded(np.empty(len(data), np.uint8), data, PixelFormat.JPEG, size, _model())
    assert left
    return left[1].row(data, row)


def by_cpu(data: bytes, size: tuple[int, int]) -> Pixels:
    row = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    decode_into(row, data, PixelFormat.JPEG, size, _model())
    return row


def _model() -> PreparedModel:
    return colour_model(WIDTH, HEIGHT, "letterbox", pad_value=114)


def seen(engine: TensorRtEngine, slot: Slot, rows: int) -> Pixels:
    engine.run(slot, rows)
    return slot.outputs["seen"][:rows].astype(np.uint8)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [(320, 192), (640, 480), (1280, 720), (200, 100), (333, 217)])
def test_the_pixels_are_those_of_the_cpu(engine: TensorRtEngine, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    pictures = [encoded(smooth_picture(rng, *size), PixelFormat.JPEG) for _ in range(MAX_BATCH)]
    slot = engine.new_slot()
    assert engine.place_encoded(slot, [asked(data, row, size) for row, data in enumerate(pictures)]) == [True] * 4
    for row, (data, pixels) in enumerate(zip(pictures, seen(engine, slot, MAX_BATCH), strict=True)):
        off = np.abs(pixels.astype(int) - by_cpu(data, size))
        assert np.quantile(off, 0.99) <= LEVELS, f"row {row}"
        assert off.mean() <= 2, f"row {row}"


@pytest.mark.timeout(300)
def test_host_rows_beside_rows_of_the_device(engine: TensorRtEngine) -> None:
    slot, data = engine.new_slot(), sample_jpeg((640, 480))
    slot.inputs["pixels"][:] = 77
    assert engine.place_encoded(slot, [asked(data, 1, (640, 480))]) == [True]
    pixels = seen(engine, slot, 3)
    assert (pixels[[0, 2]] == 77).all()
    assert np.abs(pixels[1].astype(int) - by_cpu(data, (640, 480))).mean() <= LEVELS
    assert (seen(engine, slot, 3) == 77).all(), "it holds for one run"


@pytest.mark.timeout(300)
def test_pictures_that_end_too_early_are_left_to_the_cpu(engine: TensorRtEngine) -> None:
    """Where the GPU paints what is missing instead, `auto` must have kept the CPU."""
    slot, data = engine.new_slot(), sample_jpeg((640, 480))
    whole = asked(data, 0, (640, 480))
    shares = (0.2, 0.5, 0.9)
    broken = [
        EncodedRow(data[: int(share * len(data))] + data[-2:], row, whole.source, whole.target, 0)
        for row, share in enumerate(shares, start=1)
    ]
    placed = engine.place_encoded(slot, [whole, *broken])
    assert placed[0]
    if any(placed[1:]):
        batch_slot = BatchSlot(slot, slot.inputs["pixels"])
        assert not decodes_on_device("auto", engine, batch_slot, _model(), 1)
        pytest.skip(f"nvImageCodec decodes cut-off JPEGs here: {placed[1:]}; the CPU is used")


@pytest.mark.timeout(300)
def test_bytes_that_are_no_picture_harm_no_neighbour(engine: TensorRtEngine) -> None:
    slot, data = engine.new_slot(), sample_jpeg((640, 480))
    whole = asked(data, 1, (640, 480))
    nothing = EncodedRow(bytes(500), 0, whole.source, whole.target, 0)
    assert engine.place_encoded(slot, [nothing, whole]) == [False, True]
    assert np.abs(seen(engine, slot, 2)[1].astype(int) - by_cpu(data, (640, 480))).mean() <= LEVELS
