"""The report is one page that needs nothing beside it, and says what it was given."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from foveate.client import Verdict
from foveate.tools.report import FramePoint, ReportPicture, SessionReport, html_from_report
from foveate.tools.summary import Tally
from support.results import made_result

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that elements nest, and keeps texts and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def report(*verdicts: Verdict, budget_ms: float = 100.0, total_ms: float = 20.0) -> SessionReport:
    tally, frames = Tally(), []
    for sequence, verdict in enumerate(verdicts, 1):
        result = made_result(sequence, verdict, total_ms=total_ms)
        tally.add(result)
        frames.append(FramePoint(sequence, verdict, result.age_ms + result.times.total_ms))
    return SessionReport(
        source="a <b>video</b> & more",
        facts=[("engine", "faces/x/fp32/cpu")],
        budget_ms=budget_ms,
        summary=tally.summary(),
        frames=frames,
        pictures=[ReportPicture(b"\xff\xd8jpeg", "frame 1 <of 2>")],
    )


def test_the_page_is_whole_and_stands_alone() -> None:
    html = html_from_report(report(Verdict.OK, Verdict.OK, Verdict.EXPIRED))
    page = Page(html)
    assert page.open == []
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "http" not in html
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2
    assert page.tags.count("circle") == 3


def test_what_comes_from_outside_is_escaped() -> None:
    html = html_from_report(report(Verdict.OK))
    assert "<b>video" not in html
    assert "a &lt;b&gt;video&lt;/b&gt; &amp; more" in html
    assert "<of 2>" not in html


def test_the_numbers_are_those_of_the_summary() -> None:
    texts = Page(html_from_report(report(*[Verdict.OK] * 3, Verdict.SUPERSEDED))).texts
    assert "75.0%" in texts
    assert "22.0 ms" in texts, "the age and the time on the server"
    assert "superseded" in texts


def test_every_answered_frame_is_in_the_histogram() -> None:
    html = html_from_report(report(*[Verdict.OK] * 7, Verdict.DROPPED))
    assert sum(int(count) for count in re.findall(r"ms: (\d+) frames", html)) == 7


@pytest.mark.parametrize(("budget_ms", "drawn"), [(100.0, False), (22.5, True)])
def test_the_budget_is_a_line_or_a_note(budget_ms: float, drawn: bool) -> None:
    html = html_from_report(report(*[Verdict.OK] * 3, budget_ms=budget_ms))
    assert ("lies beyond the right edge" in html) is not drawn


@pytest.mark.parametrize("total_ms", [0.01, 0.9, 1.0, 9.99, 10.0, 999.0, 1000.0, 123456.0])
def test_any_magnitude_fits_its_axis(total_ms: float) -> None:
    html = html_from_report(report(Verdict.OK, Verdict.OK, total_ms=total_ms, budget_ms=1.0))
    positions = [float(x) for x in re.findall(r'(?:cx|cy|x|y)="([-\d.]+)"', html)]
    assert all(-20 <= position <= 900 for position in positions)
    assert "nan" not in html


def test_a_page_that_draws_the_latest_frames_alone_says_so() -> None:
    whole = report(*[Verdict.OK] * 5)
    assert "Every frame" in html_from_report(whole)
    html = html_from_report(replace(whole, frames=whole.frames[2:]))
    assert "The last 3 frames" in html
    assert "Every frame" not in html


def test_a_session_without_one_answer_has_a_page_too() -> None:
    page = Page(html_from_report(report(Verdict.LOST, Verdict.DROPPED)))
    assert "0.0%" in page.texts
    assert page.open == []
