"""The live page in a real browser, over a service that real clients send pictures to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from foveate.proto import vision_pb2 as pb
from foveate.service.live import board, viewers
from support.live import Camera, Run, http_side, live_cameras, moving_pictures
from support.processes import ServiceOfProcesses, service_of_processes
from support.service import RunningService, fake_engine, running_service
from support.system_programs import require_program
from support.waiting import until

TESTS = Path(__file__).resolve().parents[1]
QUEUE = {"delivery": pb.DELIVERY_QUEUE, "queue_depth": 64}
"""Each picture shown was inferred, and has its box."""

_PIXELS_OF = """
  const shown = document.querySelector(`[data-stream="${id}"] .picture canvas`);
  const copy = new OffscreenCanvas(shown?.width || 1, shown?.height || 1);
  const context = copy.getContext("2d", {willReadFrequently: true});
  if (shown?.width) context.drawImage(shown, 0, 0);
"""
SUM_OF_PIXELS = (
    "id => {"
    + _PIXELS_OF
    + """
  const data = context.getImageData(0, 0, copy.width, copy.height).data;
  let sum = 0;
  for (let at = 0; at < data.length; at += 4) sum = (sum * 31 + data[at] + data[at + 1] * 3) % 1000000007;
  return sum;
}"""
)
PIXEL = (
    "([id, x, y]) => {"
    + _PIXELS_OF
    + "return [...context.getImageData(x * copy.width, y * copy.height, 1, 1).data].slice(0, 3); }"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = require_program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def page_at(browser: Browser, url: str, faults_expected: bool = False, **context: Any) -> Iterator[Page]:
    """A page in a profile of its own, on which nothing may go wrong that is not expected to."""
    opened = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **context})
    page, faults = opened.new_page(), []
    # What breaks the page's security policy is an error of the console, too.
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(url)
    try:
        yield page
        assert faults_expected or not faults
    finally:
        opened.close()


@pytest.fixture
def children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])))


def in_loop(service: RunningService) -> Run:
    return lambda work: service.start(work).result(40)


def tile(page: Page, stream_id: str) -> Any:
    return page.locator(f'[data-stream="{stream_id}"]')


def text(page: Page, stream_id: str, part: str) -> str:
    return str(tile(page, stream_id).locator(part).text_content())


def moves(page: Page, stream_id: str) -> None:
    """Wait for the tile to show three pictures that differ."""
    seen = set[int]()

    def three() -> bool:
        seen.add(page.evaluate(SUM_OF_PIXELS, stream_id))
        return len(seen - {0}) >= 3

    until(three)


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def watched(service: RunningService) -> frozenset[str]:
    ingest = service.server._ingest
    assert ingest is not None
    assert ingest.gallery is not None
    return ingest.gallery.watched


def test_tiles_move_numbers_change_and_a_killed_stream_shows_as_gone(browser: Browser) -> None:
    with running_service(fake_engine(0.01)) as service, http_side(in_loop(service), service.server) as http:
        dock, gate = (Camera(service.stub, name, moving_pictures()) for name in ("dock", "gate"))
        with live_cameras([dock, gate]):
            service.settled(lambda status: status.ledger.ok > 10)
            assert watched(service) == frozenset(), "nobody looks"
            with page_at(browser, http.url) as page:
                moves(page, "dock")
                moves(page, "gate")
                until(lambda: watched(service) == {"dock", "gate"})
                until(lambda: float(text(page, "dock", ".ok-fps").replace("–", "0")) > 0)
                until(lambda: text(page, "dock", ".total-ms") != "–")
                assert text(page, "dock", ".budget-ms") == "5000"
                until(lambda: page.locator("#total-streams").text_content() == "2")
                ok = int(text(page, "dock", '[data-verdict="ok"] b'))
                until(lambda: int(text(page, "dock", '[data-verdict="ok"] b')) > ok)
                until(lambda: "engine" in str(tile(page, "dock").locator(".bar").get_attribute("aria-label")))
                until(lambda: "room for about" in str(page.locator(".room").first.text_content()))
                gate.stop()
                page.wait_for_selector('[data-stream="gate"].gone')
                assert text(page, "gate", ".badge").startswith("gone")
                moves(page, "dock")
                until(lambda: page.locator("#total-streams").text_content() == "1")
            until(lambda: watched(service) == frozenset())


def test_boxes_are_drawn_where_the_detections_are(browser: Browser) -> None:
    """The fake detector sees a box over the left half of each picture, which here is as wide as the tile."""
    grey = moving_pictures(320, 180, count=1, grey=105)
    with (
        running_service() as service,
        http_side(in_loop(service), service.server) as http,
        live_cameras([Camera(service.stub, "dock", grey, **QUEUE)]),
        page_at(browser, http.url) as page,
    ):
        until(lambda: page.evaluate(SUM_OF_PIXELS, "dock"))

        def is_coloured(x: float, y: float) -> bool:
            red, green, blue = page.evaluate(PIXEL, ["dock", x, y])
            return bool(max(red, green, blue) - min(red, green, blue) > 50)

        until(lambda: is_coloured(0.5, 0.6))
        assert is_coloured(0.0, 0.6), "the left side of the box"
        assert is_coloured(0.25, 0.997), "its lower side"
        assert is_coloured(0.02, 0.02), "its label, inside since there is no room above"
        for x in (0.25, 0.48, 0.52, 0.55):
            assert not is_coloured(x, 0.6), "the picture is grey"


def test_a_picture_that_is_to_be_turned_is_shown_turned_with_its_box(browser: Browser) -> None:
    exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (plain,) = moving_pictures(320, 160, count=1, grey=105)
    turned = plain[:2] + exif + plain[2:]
    with (
        running_service() as service,
        http_side(in_loop(service), service.server) as http,
        live_cameras([Camera(service.stub, "dock", [turned], **QUEUE)]),
        page_at(browser, http.url) as page,
    ):
        until(lambda: page.evaluate(SUM_OF_PIXELS, "dock"))
        aspect = "document.querySelector('.tile .picture').style.getPropertyValue('--aspect')"
        assert page.evaluate(aspect) == "160 / 320"
        # One tile is as high as its picture: the left half of a picture upright has its edge in the middle.
        box = page.evaluate(PIXEL, ["dock", 0.5, 0.5])
        assert max(box) - min(box) > 50


def test_nothing_is_kept_while_the_page_is_hidden(browser: Browser) -> None:
    with (
        running_service() as service,
        http_side(in_loop(service), service.server) as http,
        live_cameras([Camera(service.stub, "dock", moving_pictures())]),
        page_at(browser, http.url) as page,
    ):
        moves(page, "dock")
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        until(lambda: watched(service) == frozenset())
        page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        moves(page, "dock")


def test_a_camera_that_sends_nothing_more_is_called_quiet(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "QUIET_AFTER_NS", 1_500_000_000)
    with running_service() as service, http_side(in_loop(service), service.server) as http:
        camera = Camera(service.stub, "dock", moving_pictures())
        with live_cameras([camera]), page_at(browser, http.url) as page:
            moves(page, "dock")
            camera.paused.set()
            page.wait_for_selector('[data-stream="dock"].quiet', timeout=20_000)
            assert "no frames for" in text(page, "dock", ".badge")


def test_a_stream_that_is_never_in_time_shows_why_and_still_its_pictures(browser: Browser) -> None:
    with running_service() as service, http_side(in_loop(service), service.server) as http:
        camera = Camera(service.stub, "dock", moving_pictures())
        camera.fields = {"budget_ms": 1, "age_us": 2000}
        with live_cameras([camera]), page_at(browser, http.url) as page:
            page.wait_for_selector('[data-stream="dock"] [data-verdict="infeasible"]')
            until(lambda: text(page, "dock", ".badge") == "not inferred: infeasible")
            moves(page, "dock")
            camera.fields = {}
            until(lambda: text(page, "dock", ".badge") == "")


def test_a_server_without_streams_says_how_to_connect_one(browser: Browser) -> None:
    with (
        running_service() as service,
        http_side(in_loop(service), service.server) as http,
        page_at(browser, http.url, permissions=["clipboard-read", "clipboard-write"]) as page,
    ):
        page.wait_for_selector("#empty:visible")
        command = f"foveate watch rtsp://CAMERA/stream --server {service.address}"
        assert page.locator("#command-watch").text_content() == command
        page.locator(".copy").first.click()
        assert page.evaluate("navigator.clipboard.readText()") == command
        with live_cameras([Camera(service.stub, "dock", moving_pictures())]):
            moves(page, "dock")
            assert not page.locator("#empty").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, scheme: str) -> None:
    unavailable = {"faces-of-a-very-long-name-without-any-break-in-it": "no engine: " + "x" * 300}
    name = "camera-" + "0123456789" * 12
    phone: dict[str, Any] = {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    }
    with (
        running_service(unavailable=unavailable) as service,
        http_side(in_loop(service), service.server) as http,
        page_at(browser, http.url, color_scheme=scheme, **phone) as page,
    ):
        page.wait_for_selector("#empty:visible")
        assert not scrolls_sideways(page)
        with live_cameras([Camera(service.stub, name, moving_pictures())]):
            moves(page, name)
            page.locator(".unserved summary").click()
            assert not scrolls_sideways(page)
            page.locator(".expand").click()
            moves(page, name)
            assert not scrolls_sideways(page)


def test_only_what_is_on_the_screen_is_fetched(browser: Browser) -> None:
    with running_service() as service, http_side(in_loop(service), service.server) as http:
        names = [f"cam-{number}" for number in range(8)]
        with live_cameras([Camera(service.stub, name, moving_pictures(), fps=5) for name in names]):
            phone: dict[str, Any] = {"viewport": {"width": 390, "height": 500}}
            with page_at(browser, http.url, **phone) as page:
                moves(page, names[0])
                until(lambda: 1 <= len(watched(service)) < 4)
                page.evaluate("document.querySelector('[data-stream=\"cam-7\"]').scrollIntoView()")
                moves(page, names[7])
                until(lambda: names[0] not in watched(service))


def test_a_drain_and_a_lost_server_are_told_and_the_page_comes_back(browser: Browser) -> None:
    with running_service() as service:
        run = in_loop(service)
        with http_side(run, service.server) as http:
            listen = http.url.removeprefix("http://").removesuffix("/")
            context = page_at(browser, http.url, faults_expected=True)
            page = context.__enter__()
            page.wait_for_selector('#state[data-state="ready"]')
            camera = Camera(service.stub, "dock", moving_pictures())
            moves(page, "dock")
            stopping = service.start(service.server.stop(20_000))
            page.wait_for_selector('#state[data-state="draining"]')
            assert "draining" in str(page.locator("#banner").text_content())
            camera.stop()
            stopping.result(40)
        page.wait_for_selector('#state[data-state="lost"]')
        assert "lost" in str(page.locator("#banner").text_content())
        with http_side(run, service.server, listen=listen):
            page.wait_for_selector('#state[data-state="unready"]')
            assert not page.locator("body.lost").count()
        context.__exit__(None, None, None)


def test_a_connection_that_has_gone_silent_is_made_anew(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a router has forgotten it. A new one is told at once what the server knows."""
    monkeypatch.setattr(viewers, "STATUS_EVERY_S", 3600.0)

    def less_patient(route: Route) -> None:
        page_js = route.fetch()
        route.fulfill(response=page_js, body=page_js.text().replace("SILENT_AFTER_MS = 4000", "SILENT_AFTER_MS = 100"))

    with (
        running_service() as service,
        http_side(in_loop(service), service.server) as http,
        page_at(browser, http.url) as page,
    ):
        page.route("**/page.js", less_patient)
        page.reload()
        for state in ("ready", "lost", "ready"):
            page.wait_for_selector(f'#state[data-state="{state}"]')


@pytest.mark.usefixtures("children_find_the_tests")
def test_pictures_come_from_all_processes_and_go_on_when_one_is_killed(browser: Browser) -> None:
    with service_of_processes(ingests=2) as service, http_side(service.run, service.supervisor) as http:
        names = [f"cam-{number}" for number in range(4)]
        cameras = [Camera(service.new_stub(), name, moving_pictures(), fps=5) for name in names]
        with live_cameras(cameras), page_at(browser, http.url) as page:
            for name in names:
                moves(page, name)
            holders = holders_of(service, names)
            service.kill("ingest 0")
            for name in names:
                if holders[name] == "ingest 0":
                    page.wait_for_selector(f'[data-stream="{name}"].gone')
                else:
                    moves(page, name)
            # A new stream may come to either process, the old one or the one that replaces what was killed.
            until(lambda: "ingest 0" in service.supervisor.processes)
            more = [Camera(service.new_stub(), f"new-{number}", moving_pictures(), fps=5) for number in range(2)]
            with live_cameras(more):
                for number in range(2):
                    page.wait_for_selector(f'[data-stream="new-{number}"]')
                    tile(page, f"new-{number}").scroll_into_view_if_needed()
                    moves(page, f"new-{number}")


def holders_of(service: ServiceOfProcesses, names: list[str]) -> dict[str, str]:
    """Which process has which stream."""
    held = service.supervisor._directory._open
    return {name: held[name].holder.name for name in names}  # type: ignore[attr-defined]
