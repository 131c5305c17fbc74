"""Placements: where frames land, and that the way back is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import BadFrame
from foveate.models.geometry import Placement, Rect, place
from foveate.models.manifest import InputSpec

SIDES = st.integers(1, 8192)
SPECS = st.builds(
    InputSpec,
    width_px=st.integers(8, 1280),
    height_px=st.integers(8, 1280),
    resize=st.sampled_from(["letterbox", "stretch", "center_crop"]),
    anchor=st.sampled_from(["center", "top_left"]),
    crop_fraction=st.floats(0.05, 1.0),
)


def inside(inner: Rect, width: int, height: int) -> bool:
    return (
        inner.x >= 0
        and inner.y >= 0
        and inner.width >= 1
        and inner.height >= 1
        and inner.x + inner.width <= width
        and inner.y + inner.height <= height
    )


@given(SIDES, SIDES, SPECS)
def test_source_lies_in_the_frame_and_destination_in_the_input(width: int, height: int, spec: InputSpec) -> None:
    placement = place(width, height, spec)
    assert inside(placement.source, width, height)
    assert inside(placement.destination, spec.width_px, spec.height_px)


@given(SIDES, SIDES, SPECS, st.floats(0, 1), st.floats(0, 1))
def test_a_point_of_the_frame_comes_back_from_the_input(
    width: int, height: int, spec: InputSpec, along_x: float, along_y: float
) -> None:
    placement = place(width, height, spec)
    source, destination = placement.source, placement.destination
    x, y = source.x + along_x * source.width, source.y + along_y * source.height
    in_input = (
        (x - source.x) * destination.width / source.width + destination.x,
        (y - source.y) * destination.height / source.height + destination.y,
    )
    back = placement.to_frame(np.array(in_input, np.float32))
    # float32 carries 24 bits: of a coordinate in the input, then scaled up to the frame.
    reach = max(placement.scale_x, placement.scale_y, 1) * 1280 + 8192
    assert back == pytest.approx([x, y], abs=reach * 2**-22)


@given(SIDES, SIDES, SPECS)
def test_the_destination_is_the_source_and_the_input_covers_no_more_than_the_frame(
    width: int, height: int, spec: InputSpec
) -> None:
    placement = place(width, height, spec)
    source, dest = placement.source, placement.destination
    corners = np.array([[dest.x, dest.y], [dest.x + dest.width, dest.y + dest.height]], np.float32)
    expected = [[source.x, source.y], [source.x + source.width, source.y + source.height]]
    reach = max(placement.scale_x, placement.scale_y, 1) * 1280 + 8192
    np.testing.assert_allclose(placement.to_frame(corners), expected, atol=reach * 2**-22)
    everything = np.array([-1e8, -1e8, 1e8, 1e8], np.float32)  # where a pixel of the frame fills the whole input, too
    np.testing.assert_array_equal(placement.boxes_to_frame(everything), [0, 0, width, height])


@given(SIDES, SIDES, SPECS)
def test_letterbox_touches_the_input_and_keeps_the_aspect_ratio(width: int, height: int, spec: InputSpec) -> None:
    spec = spec.model_copy(update={"resize": "letterbox"})
    dest = place(width, height, spec).destination
    assert dest.width == spec.width_px or dest.height == spec.height_px
    scale = min(spec.width_px / width, spec.height_px / height)
    assert dest.width == pytest.approx(max(1, width * scale), abs=0.5 + 1e-6)
    assert dest.height == pytest.approx(max(1, height * scale), abs=0.5 + 1e-6)


@pytest.mark.parametrize(
    ("anchor", "expected"), [("center", Rect(0, 140, 640, 360)), ("top_left", Rect(0, 0, 640, 360))]
)
def test_letterbox_of_a_wide_frame(anchor: str, expected: Rect) -> None:
    spec = InputSpec.model_validate({"width_px": 640, "height_px": 640, "anchor": anchor})
    placement = place(1920, 1080, spec)
    assert placement.source == Rect(0, 0, 1920, 1080)
    assert placement.destination == expected
    assert (placement.scale_x, placement.scale_y) == (3.0, 3.0)
    assert (placement.offset_x, placement.offset_y) == (0.0, -3.0 * expected.y)


def test_letterbox_enlarges_a_small_frame() -> None:
    assert place(64, 48, InputSpec(width_px=640, height_px=640)).destination == Rect(0, 80, 640, 480)


def test_center_crop_cuts_the_middle_of_the_shorter_side() -> None:
    spec = InputSpec(width_px=224, height_px=224, resize="center_crop", crop_fraction=0.875)
    # 512 / 256 = 2 frame pixels per resized pixel, 224 of which are kept.
    placement = place(1024, 512, spec)
    assert placement.source == Rect(288, 32, 448, 448)
    assert placement.destination == Rect(0, 0, 224, 224)


def test_stretch_uses_each_axis_scale() -> None:
    placement = place(200, 100, InputSpec(width_px=100, height_px=100, resize="stretch"))
    box = placement.boxes_to_frame(np.array([[10, 10, 50, 150]], np.float32))
    np.testing.assert_array_equal(box, [[20, 10, 100, 100]])


def test_the_map_uses_the_size_as_it_was_rounded() -> None:
    # 100 x 333 in 64 x 64: 19.2 pixels wide, rounded to 19.
    placement = place(100, 333, InputSpec(width_px=64, height_px=64))
    assert placement.destination == Rect(22, 0, 19, 64)
    assert placement.scale_x == 100 / 19


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "center_crop"])
@pytest.mark.parametrize("size", [(8192, 1), (1, 8192)])
def test_a_line_of_pixels_keeps_one_pixel(resize: str, size: tuple[int, int]) -> None:
    placement = place(*size, InputSpec.model_validate({"width_px": 64, "height_px": 64, "resize": resize}))
    assert min(placement.source.width, placement.source.height) == 1
    assert min(placement.destination.width, placement.destination.height) >= 1


def test_points_are_not_clipped_and_arguments_not_changed() -> None:
    placement = Placement(10, 10, Rect(0, 0, 10, 10), Rect(0, 0, 10, 10))
    boxes = np.array([[-5, -5, 15, 15]], np.float32)
    np.testing.assert_array_equal(placement.to_frame(boxes.reshape(2, 2)), [[-5, -5], [15, 15]])
    np.testing.assert_array_equal(placement.boxes_to_frame(boxes), [[0, 0, 10, 10]])
    np.testing.assert_array_equal(boxes, [[-5, -5, 15, 15]])


def test_results_are_float32() -> None:
    placement = place(100, 333, InputSpec(width_px=64, height_px=64))
    assert placement.to_frame(np.zeros((2, 2), np.float32)).dtype == np.float32
    assert placement.boxes_to_frame(np.zeros((0, 4), np.float32)).dtype == np.float32


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_a_frame_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadFrame, match="at least 1 x 1"):
        place(*size, InputSpec(width_px=64, height_px=64))
