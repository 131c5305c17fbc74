"""Video decoded by a GPU's own decoder, against FFmpeg on the CPU: the same pictures for the same units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from foveate.engines.errors import BadFrame, EngineUnavailable
from foveate.proto import vision_pb2 as pb
from foveate.service.frame import PixelFormat
from foveate.service.video_decoder import VideoDecoder
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, grey_of, running_service
from support.video_streams import access_units, moving_pictures

PLENTY = 10**7
PICTURES = moving_pictures(24, 320, 256)


@pytest.fixture(params=[PixelFormat.H264, PixelFormat.H265], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> PixelFormat:
    """A format that is decoded here; skips, saying why, where none is."""
    try:
        VideoDecoder(request.param, PLENTY, "gpu").decode(access_units(PICTURES[:1], request.param)[0])
    except (EngineUnavailable, BadFrame) as error:
        pytest.skip(f"no NVDEC for {request.param.name} here: {error}")
    picked: PixelFormat = request.param
    return picked


def test_both_decode_to_the_same_pictures_at_once(kind: PixelFormat) -> None:
    on_gpu, on_cpu = VideoDecoder(kind, PLENTY, "gpu"), VideoDecoder(kind, PLENTY)
    for unit in access_units(PICTURES, kind):
        ours, reference = on_gpu.decode(unit), on_cpu.decode(unit)
        assert (ours.width, ours.height) == (320, 256)
        # Decoding is normative; only what converts the two layouts to RGB may round differently.
        assert np.abs(ours.rgb().astype(int) - reference.rgb()).max() <= 3
        assert np.abs(ours.reduced((80, 64)).astype(int) - reference.reduced((80, 64))).max() <= 3


def test_a_gap_breaks_the_chain_until_the_next_key_frame(kind: PixelFormat) -> None:
    units, decoder = access_units(PICTURES, kind), VideoDecoder(kind, PLENTY, "gpu")
    for unit in units[:5]:
        decoder.decode(unit)
    for index in (6, 7, 8, 9):
        with pytest.raises(BadFrame, match="until the next key frame"):
            decoder.decode(units[index], follows=index != 6)
    for unit in units[10:]:
        assert decoder.decode(unit).width == 320


def test_a_service_decodes_its_streams_there(kind: PixelFormat) -> None:
    # Some decoders take no pictures below 144 pixels a side.
    pictures = [np.full((256, 256, 3), grey, np.uint8) for grey in GREYS[:20]]
    opened: dict[str, Any] = {"budget_ms": 20_000, "delivery": pb.DELIVERY_QUEUE, "queue_depth": 64}
    wire = getattr(pb, f"PIXEL_FORMAT_{kind.name}")
    with running_service(video_decode="gpu") as service, RawStream(service.stub) as stream:
        stream.open(format=wire, **opened)
        for sequence, unit in enumerate(access_units(pictures, kind)):
            stream.frame(sequence, unit)
        results = stream.rest()
    assert verdicts(results) == ["OK"] * 20
    assert [grey_of(result) for result in results] == list(GREYS[:20])
