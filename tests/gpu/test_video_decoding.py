"""Video decoded by a GPU's own decoder, against FFmpeg on the CPU: the same pictures for the same units."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.engines.contract import EncodedRow, HeldPicture
from foveate.engines.cuda.video_decoder import GpuVideoDecoders
from foveate.engines.errors import BadFrame, EngineError
from foveate.engines.video_decoding import StreamDecoder
from foveate.proto import vision_pb2 as pb
from foveate.service.decode import picture_into
from foveate.service.frame import PixelFormat
from foveate.service.video_choice import device_video
from foveate.service.video_decoder import VideoDecoder
from foveate.service.video_units import unit_reader
from support.echo_engine import echo_engine
from support.frames import colour_model
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, grey_of, running_service
from support.video_streams import access_units, moving_pictures

PLENTY = 10**7
WIDTH, HEIGHT = 320, 256
PICTURES = moving_pictures(24, WIDTH, HEIGHT)


@pytest.fixture
def decoders() -> Iterator[GpuVideoDecoders]:
    try:
        made = GpuVideoDecoders.open()
    except EngineError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(params=[PixelFormat.H264, PixelFormat.H265], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest, decoders: GpuVideoDecoders) -> PixelFormat:
    """A format that is decoded here; skips, saying why, where it is not."""
    picked: PixelFormat = request.param
    if refusal := decoders.refusal(picked.name.lower()):
        pytest.skip(refusal)
    return picked


def opened(decoders: GpuVideoDecoders, unit: bytes, kind: PixelFormat) -> StreamDecoder:
    reader = unit_reader(kind, PLENTY)
    reader.read(unit)
    assert reader.declared
    return decoders.open_stream(reader.declared)


@pytest.mark.parametrize("colours", [None, (1, 1), (1, 2)])
def test_both_decode_to_the_same_pictures_at_once(
    decoders: GpuVideoDecoders, kind: PixelFormat, colours: tuple[int, int] | None
) -> None:
    units, on_cpu = access_units(PICTURES, kind, colours=colours), VideoDecoder(kind, PLENTY)
    stream, held = opened(decoders, units[0], kind), list[HeldPicture]()
    for index, unit in enumerate(units):
        picture = stream.decode(unit, anew=not index)
        assert picture is not None, "each unit's own picture comes out of it"
        held.append(picture)
    stream.close()
    for unit, picture in zip(units, held, strict=True):  # all kept, beyond the decoder's own surfaces
        reference = on_cpu.decode(unit)
        assert (picture.width, picture.height) == (WIDTH, HEIGHT)
        # Decoding is normative; what converts the two layouts to RGB enlarges the chroma in two ways.
        off = np.abs(decoders.pixels(picture, (WIDTH, HEIGHT)).astype(int) - reference.rgb())
        assert np.quantile(off, 0.98) <= 5
        assert off.mean() <= 2


def test_decoding_begins_anew_after_a_gap(decoders: GpuVideoDecoders, kind: PixelFormat) -> None:
    units, on_cpu = access_units(PICTURES, kind), VideoDecoder(kind, PLENTY)
    stream = opened(decoders, units[0], kind)
    for index in range(5):
        stream.decode(units[index], anew=not index)
    for index in range(10, 20):
        picture = stream.decode(units[index], anew=index == 10)
        assert picture is not None
        off = np.abs(decoders.pixels(picture, (WIDTH, HEIGHT)).astype(int) - on_cpu.decode(units[index]).rgb())
        assert off.mean() <= 2


def test_garbage_harms_neither_the_stream_nor_its_neighbour(decoders: GpuVideoDecoders, kind: PixelFormat) -> None:
    """What NVDEC makes of a broken unit is its own matter: an error, no picture, or one with faults."""
    units = access_units(PICTURES, kind)
    stream, other = (opened(decoders, units[0], kind) for _ in range(2))
    for index in range(3):
        stream.decode(units[index], anew=not index)
        other.decode(units[index], anew=not index)
    for broken in (units[3][: len(units[3]) // 2], units[4][:5] + bytes(100), b"\0\0\1\x65garbage"):
        with suppress(BadFrame):
            stream.decode(broken, anew=False)
    assert stream.decode(units[10], anew=True) is not None
    assert other.decode(units[3], anew=False) is not None


def test_memory_does_not_grow(decoders: GpuVideoDecoders, kind: PixelFormat) -> None:
    units = access_units(PICTURES, kind)
    for _ in range(3):  # until whatever is made on first use is there
        stream = opened(decoders, units[0], kind)
        for index, unit in enumerate(units):
            stream.decode(unit, anew=not index)
        stream.close()
    with decoders._device.current():
        before, _ = decoders._device.memory_info()
        for _ in range(20):
            stream = opened(decoders, units[0], kind)
            for index, unit in enumerate(units):
                stream.decode(unit, anew=not index)
            stream.close()
        after, _ = decoders._device.memory_info()
    assert before - after < 16 << 20


@pytest.mark.timeout(300)
def test_an_engines_rows_are_made_of_the_pictures(
    decoders: GpuVideoDecoders, kind: PixelFormat, tmp_path: Path
) -> None:
    units, on_cpu, model = access_units(PICTURES, kind), VideoDecoder(kind, PLENTY), colour_model(160, 128)
    with echo_engine(tmp_path, (160, 128), 4) as engine:
        if not engine.open_placer():
            pytest.skip("NVRTC cannot be used on this GPU")
        slot, stream, rows = engine.new_slot(), opened(decoders, units[0], kind), list[EncodedRow]()
        slot.inputs["pixels"][:] = 77
        for index in range(4):
            picture = stream.decode(units[index], anew=not index)
            assert picture is not None
            rows.append(EncodedRow(picture, index, (0, 0, WIDTH, HEIGHT), (0, 0, 160, 128)))
        assert engine.place_encoded(slot, rows[1:]) == [True] * 3
        engine.run(slot, 4)
        seen = slot.outputs["seen"].astype(np.uint8)
        assert (seen[0] == 77).all()
        for index in range(4):
            expected = np.zeros((128, 160, 3), np.uint8)
            picture_into(expected, on_cpu.decode(units[index]), model)
            assert index == 0 or np.abs(seen[index].astype(int) - expected).mean() <= 3


@pytest.mark.timeout(300)
def test_auto_can_be_decided(decoders: GpuVideoDecoders) -> None:
    """Either way, but not for a fault."""
    video = device_video("auto", True, 0)
    refusal = video.refusal(PixelFormat.H264)
    video.close()
    assert refusal == "" or "ms on the device" in refusal


def test_a_service_decodes_its_streams_there(decoders: GpuVideoDecoders, kind: PixelFormat) -> None:
    # Some decoders take no pictures below 144 pixels a side.
    pictures = [np.full((256, 256, 3), grey, np.uint8) for grey in GREYS[:20]]
    settings: dict[str, Any] = {"budget_ms": 20_000, "delivery": pb.DELIVERY_QUEUE, "queue_depth": 64}
    wire = getattr(pb, f"PIXEL_FORMAT_{kind.name}")
    own = GpuVideoDecoders.open()
    with running_service(video=own, video_decode="gpu") as service, RawStream(service.stub) as stream:
        stream.open(format=wire, **settings)
        for sequence, unit in enumerate(access_units(pictures, kind)):
            stream.frame(sequence, unit)
        results = stream.rest()
    assert verdicts(results) == ["OK"] * 20
    assert [grey_of(result) for result in results] == list(GREYS[:20])
