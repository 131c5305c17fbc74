from __future__ import annotations

from datetime import timedelta

import pytest

from foveate.tools.quantities import age_text, bytes_text, latency_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (12 << 20, "12.0 MiB"),
        (326 << 20, "326 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5120 GiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0 ms"), (125_400, "0.125 ms"), (1_250_000, "1.25 ms"), (12_340_000, "12.3 ms"), (1.2e9, "1200 ms")],
)
def test_latencies_have_three_digits_that_count(nanoseconds: float, text: str) -> None:
    assert latency_text(nanoseconds) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=59), "now"),
        (timedelta(minutes=59), "59m"),
        (timedelta(hours=23), "23h"),
        (timedelta(days=400), "400d"),
    ],
)
def test_ages(age: timedelta, text: str) -> None:
    assert age_text(age) == text
