"""A sender knows the key frames of a video without a decoder."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.client import AsyncClient, PixelFormat
from foveate.client.access_unit import is_key_frame
from foveate.service import frame as service_frame
from support.video_streams import access_units, moving_pictures


@pytest.mark.parametrize(
    ("video", "settings"),
    [
        (PixelFormat.H264, {}),
        (PixelFormat.H264, {"slices": 3, "aud": 1}),
        (PixelFormat.H264, {"intra-refresh": 1}),
        (PixelFormat.H265, {}),
        (PixelFormat.H265, {"aud": 1, "open-gop": 0}),
    ],
)
def test_key_frames_of_real_encoders_are_known(video: PixelFormat, settings: dict[str, Any]) -> None:
    kind = service_frame.PixelFormat[video.name]
    units = access_units(moving_pictures(9, 64, 48), kind, key_every=4, **settings)
    assert [is_key_frame(unit, video) for unit in units] == [index % 4 == 0 for index in range(9)]


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from([PixelFormat.H264, PixelFormat.H265]))
def test_any_bytes_are_looked_at_without_a_fault(data: bytes, video: PixelFormat) -> None:
    for prefix in (b"", b"\0\0\1"):
        assert is_key_frame(prefix + data, video) in (True, False)


def test_a_video_cannot_be_paced() -> None:
    async def test() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            with pytest.raises(ValueError, match="cannot be paced"):
                client.stream([], live=True, paced=True, format=PixelFormat.H264)

    asyncio.run(test())
