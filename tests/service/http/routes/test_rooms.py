"""The rooms of the web page in a real browser: what people do in each, on the widths of a phone and of a desk."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from service.http.routes.pages import FOLDER
from tests.support.waiting import wait_until

AXE = FOLDER.parent / "node_modules/axe-core/axe.min.js"
ROOMS = ("search", "library", "map", "basket", "jobs", "releases", "audit")
SIZES = [(390, 800, "dark"), (1280, 850, "light")]


def go(page: Any, room: str) -> None:
    page.evaluate("room => { location.hash = `#/${room}`; }", room)
    page.wait_for_selector(f"nav a[aria-current]:has-text('{room.capitalize()}')")


@pytest.mark.parametrize(("width", "height", "scheme"), SIZES)
def test_every_room_fits_and_is_accessible(page: Any, width: int, height: int, scheme: str) -> None:
    """No room is wider than the screen, and axe finds nothing serious in it."""
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    if AXE.exists():
        page.evaluate(AXE.read_text())
    for room in ROOMS:
        go(page, room)
        page.wait_for_selector(".room:not([hidden]) h2:visible")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, room
        if AXE.exists():  # `npm ci` in service/http/web brings it
            found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
            serious = [
                (one["id"], [node["html"] for node in one["nodes"]])
                for one in found
                if one["impact"] in ("serious", "critical")
            ]
            assert not serious, room


def test_more_like_this_and_a_basket_as_edl(
    page: Any, hostile_server: str, hostile_file: Path, refusals: list[str]
) -> None:
    page.set_viewport_size({"width": 1280, "height": 850})
    page.set_input_files("#file", hostile_file)
    page.click("#search")
    first = page.locator("#results li").first
    first.focus()
    page.keyboard.press("b")
    page.wait_for_selector("#notice:has-text('is in “Basket”')")
    first.get_by_role("button", name="Similarity map").click()
    page.wait_for_selector(".matrix figcaption:has-text('Most alike')")
    first.get_by_role("button", name="More like this").click()
    page.wait_for_selector("#answer:has-text('with the sound of')")
    assert page.is_checked("input[value=audio]")
    go(page, "basket")
    page.fill(".items li input", "the second gust")
    with page.expect_response(lambda answer: answer.request.method == "PATCH"):
        page.keyboard.press("Tab")
    page.reload()
    page.wait_for_selector(".items li input")
    assert page.input_value(".items li input") == "the second gust"
    (basket,) = httpx.get(f"{hostile_server}/v1/collections").json()["collections"]
    place = f"{hostile_server}/v1/collections/{basket['collection_id']}"
    asset_id = httpx.get(place).json()["items"][0]["asset_id"]
    httpx.post(f"{place}/items", json={"asset_id": asset_id}).raise_for_status()  # from another tab
    refusals.append("/v1/collections/")  # once: it is another by now
    page.fill(".items li input", "a third")
    page.keyboard.press("Tab")
    page.wait_for_selector(".fault:has-text('changed elsewhere')")
    assert page.locator(".items li").count() == 2
    assert len(httpx.get(place).json()["items"]) == 2
    ask_before_a_change_is_lost(page, place)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export").click()
    assert "TITLE: Basket" in Path(saved.value.path()).read_text()


def ask_before_a_change_is_lost(page: Any, place: str) -> None:
    """The browser asks if the page is left while a change is on its way, and no more once it is stored."""
    waiting: list[Any] = []

    def hold_the_first(route: Any) -> None:
        if route.request.method == "PATCH" and not waiting:
            waiting.append(route)
        else:
            route.continue_()

    page.route(place, hold_the_first)
    note = page.locator(".items li input").first
    note.fill("a fourth")
    with page.expect_request(lambda request: request.method == "PATCH"):
        page.keyboard.press("Tab")
    with page.expect_event("dialog") as asked:
        page.evaluate("setTimeout(() => location.reload())")
    assert asked.value.type == "beforeunload"
    asked.value.dismiss()
    assert note.input_value() == "a fourth"
    note.fill("a fifth")  # waits for the one before, and is made to its outcome
    page.keyboard.press("Tab")
    with page.expect_response(lambda answer: "a fifth" in (answer.request.post_data or "")) as stored:
        waiting[0].continue_()
    assert stored.value.ok
    page.unroute(place)
    page.reload()
    page.wait_for_selector(".items li input")
    assert note.input_value() == "a fifth"


def test_a_recording_is_cut_and_searched_with(page: Any) -> None:
    """Chromium's fake microphone beeps."""
    page.click("text=Record…")
    page.click("text=microphone")
    page.wait_for_selector(".recording")
    page.wait_for_timeout(1100)
    page.click("text=Stop")
    page.wait_for_selector("#file-name:has-text('microphone-')")
    page.wait_for_selector("#preview [aria-label^='Waveform of your clip']")
    assert page.is_checked("input[value=video]")
    page.click("#search")
    page.wait_for_selector("#answer:has-text('with the sound of microphone-')")
    assert page.locator("#results li video").count() > 0


def drag(page: Any, start: float, end: float, *, y: float, by_touch: bool = False) -> None:
    """Drag over the strip of the clip, from and to shares of its width, at a height from its top (negative: bottom)."""
    strip = page.locator(".wave").first
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    places = [
        {"x": box["x"] + share * box["width"], "y": box["y"] + y % box["height"]}
        for share in (start, (start + end) / 2, end)
    ]
    if by_touch:
        session = page.context.new_cdp_session(page)
        kinds = ("touchStart", "touchMove", "touchMove", "touchEnd")
        for kind, point in zip(kinds, [*places, None], strict=True):
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point] if point else []})
        return
    page.mouse.move(**places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(**place)
    page.mouse.up()


def read_cut(page: Any) -> list[float]:
    return [float(page.input_value(f"#preview [aria-label='Part {name} second']")) for name in ("from", "to")]


def test_a_part_of_the_clip_is_searched_with(page: Any, hostile_file: Path) -> None:
    """By dragging over its frames and over its waveform, by an edge, by touch and by keyboard."""
    page.set_viewport_size({"width": 1280, "height": 850})
    page.set_input_files("#file", hostile_file)
    page.wait_for_selector("[aria-label^='Waveform and frames of your clip']")
    frames = page.locator(".wave canvas[part=frames]")
    is_drawn = "(film) => film.getContext('2d').getImageData(film.width - 9, 40, 1, 1).data[3] > 0"
    wait_until(lambda: frames.evaluate(is_drawn))
    drag(page, 0.25, 0.75, y=-20)  # over the frames
    assert read_cut(page) == pytest.approx([6, 18], abs=0.6)
    drag(page, 0.75, 0.9, y=-20)  # its edge
    assert read_cut(page) == pytest.approx([6, 21.6], abs=0.6)
    drag(page, 0.95, 0.1, y=10)  # over the waveform
    assert read_cut(page) == pytest.approx([2.4, 22.8], abs=0.6)
    page.click("text=Use all of it")
    drag(page, 0.1, 0.5, y=-20, by_touch=True)
    assert read_cut(page) == pytest.approx([2.4, 12], abs=0.6)
    page.fill("#preview [aria-label='Part to second']", "24")
    page.fill("#preview [aria-label='Part from second']", "12")
    page.keyboard.press("Tab")
    page.wait_for_selector(".cut:has-text('00:12–00:24')")
    page.click("#search")
    page.wait_for_selector("#results li")
    fits = page.locator(".times:has-text('of your clip')").all_text_contents()
    assert fits
    assert not [text for text in fits if "fits 00:00" in text]
    page.click("text=Use all of it")
    assert page.locator(".cut").count() == 0


def test_a_part_of_a_result_is_saved_and_searched_with(page: Any, hostile_file: Path, tmp_path: Path) -> None:
    """What plays gets handles; what is searched with next may be a part of a file of the library."""
    page.set_viewport_size({"width": 1280, "height": 850})
    page.set_input_files("#file", hostile_file)
    page.click("#search")
    result = page.locator("#results li:has-text('long.mp4')")
    result.locator("audio").evaluate("(player) => player.play()")
    result.get_by_label("Part to second").fill("2.5")
    page.keyboard.press("Tab")
    with page.expect_download() as saved:
        result.get_by_role("button", name="Download the segment").click()
    saved.value.save_as(tmp_path / "part.wav")
    with wave.open(str(tmp_path / "part.wav")) as part:
        length = part.getnframes() / part.getframerate()
    start = float(result.get_by_label("Part from second").input_value())
    assert length == pytest.approx(2.5 - start, abs=0.05)
    result.get_by_role("button", name="More like this").click()
    page.wait_for_selector("#answer:has-text('with the sound of long.mp4')")
    page.fill("#preview [aria-label='Part from second']", "20.5")
    page.keyboard.press("Tab")
    page.click("#search")
    page.wait_for_selector("#results .times:has-text('of your clip'), #results .times:has-text('00:')")
    assert "20.5–24.0 s" in (page.text_content(".cut") or "")


def test_filters_are_chips(page: Any) -> None:
    go(page, "library")
    page.wait_for_selector(".card")
    status = page.locator(".library [role=status]").first
    before = status.text_content()
    page.click(".room:not([hidden]) summary")
    page.select_option(".room:not([hidden]) .filter-fields select", "min_duration_seconds")
    page.fill("[aria-label='Length at least (s)']", "20")
    page.keyboard.press("Enter")
    page.wait_for_selector(".chip:has-text('at least 20 s')")
    wait_until(
        lambda: status.text_content() == "2 files", seconds=20
    )  # long.mp4, and the one with the bad name
    page.get_by_role("button", name="Remove filter").click()
    wait_until(lambda: status.text_content() == before, seconds=20)


def test_a_folder_becomes_a_job_and_files(page: Any, hostile_server: str, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"\0" * 100)
    go(page, "library")
    page.click("text=Add folders…")
    page.fill("#folders", str(tmp_path))
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector(".items li.is-chosen:has-text('failed')")
    go(page, "library")
    page.click("text=What failed…")
    page.wait_for_selector(f".pair-row:has-text('{tmp_path}/bad.mp4')")
    assert page.get_by_role("button", name="Retry").count() == 1


def test_metadata_is_edited(page: Any, hostile_server: str) -> None:
    go(page, "library")
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    page.fill("[aria-label='Name of new metadata']", "mood")
    page.fill("[aria-label='Value of new metadata']", "calm, 3")
    page.keyboard.press("Enter")
    page.wait_for_selector("section:has-text('Saved.') input[aria-label=mood]")
    asset_id = page.evaluate("location.hash.split('/')[2]")
    asset = httpx.get(f"{hostile_server}/v1/assets/{asset_id}").json()
    assert asset["metadata"] == {**asset["metadata"], "mood": ["calm", 3]}
    page.get_by_role("button", name="Remove mood").click()
    page.wait_for_selector("input[aria-label=mood]", state="detached")


def test_a_release_is_activated_and_rolled_back(page: Any, hostile_server: str) -> None:
    go(page, "releases")
    page.wait_for_selector(".items li .state.is-active")
    page.get_by_role("button", name="Activate").first.click()
    page.wait_for_selector("#notice:has-text('is active')")
    page.get_by_role("button", name="Roll back to").click()
    wait_until(lambda: page.get_by_role("button", name="Roll back to").count() == 1)
    releases = httpx.get(f"{hostile_server}/v1/releases").json()
    assert page.locator("li:has(.state.is-active) .name").text_content() == releases["active"]


def test_a_finding_of_the_audit_is_marked(page: Any, hostile_server: str) -> None:
    """The library of the tests is too small for an audit: its answer is made here, the mark is real."""
    assets = httpx.get(f"{hostile_server}/v1/assets").json()["assets"]
    asset = next(one for one in assets if one["modalities"] == ["audio", "video"])
    finding = {
        "asset_id": asset["asset_id"],
        "path": asset["path"],
        "verdict": "shifted",
        "match_probability": 0.02,
        "score": 0.1,
        "offset_seconds": 0.5,
        "mark": None,
    }
    answer = {"findings": [finding], "num_files": 40, "verdicts": {"shifted": 1, "fits": 39}, "num_marked": 0}
    page.route("**/v1/audit?*", lambda route: route.fulfill(json=answer))
    go(page, "audit")
    page.click("text=Look for files")
    page.wait_for_selector(".items li:has-text('sound 0.50 s late')")
    page.click("text=B: moved by 0.50 s")
    playing = "() => [...document.querySelectorAll('video, audio')].filter((one) => !one.paused).length"
    wait_until(lambda: page.evaluate(playing) == 2, seconds=20)
    page.get_by_role("button", name="Not a fault").click()
    page.wait_for_selector("[aria-pressed=true]:has-text('Not a fault')")
    page.unroute_all()


def test_the_map_lists_and_plays(page: Any) -> None:
    go(page, "map")
    page.focus(".map canvas")
    page.keyboard.press("Enter")
    page.wait_for_selector("aside li")
    page.get_by_role("button", name="Play ").first.click()
    page.wait_for_selector("aside video")


def test_ten_thousand_cards_are_few_elements(page: Any) -> None:
    """Pages far from what is seen are let go, and read again when it comes near."""
    asset = {"paths": [], "num_segments": 1, "metadata": {}, "media": {"duration_seconds": 3}}
    asked: list[str] = []

    def answer(route: Any) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        first, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        last = min(first + limit, 10_000)
        asked.append(f"{first} to {last}")
        assets = [
            {
                **asset,
                "asset_id": f"{number:064x}",
                "path": f"/a/{number}.wav",
                "modalities": ["video" if number % 2 else "audio"],
            }
            for number in range(first, last)
        ]
        following = None if last == 10_000 else str(last)
        route.fulfill(json={"assets": assets, "next_cursor": following, "num_assets": 10_000})

    library = page.evaluate("fetch('/v1/library').then((answer) => answer.json())")
    page.route("**/v1/library", lambda route: route.fulfill(json={**library, "num_assets": 10_000}))
    page.route("**/v1/assets?*", answer)
    waveform = {"start": 0, "end": 3, "min": [-9], "max": [9]}
    page.route("**/waveform*", lambda route: route.fulfill(json=waveform))
    picture = "<svg xmlns='http://www.w3.org/2000/svg'/>"
    page.route("**/thumbnail", lambda route: route.fulfill(body=picture, content_type="image/svg+xml"))
    go(page, "library")
    page.reload()
    page.wait_for_selector(".card:has-text('0.wav')")
    page.wait_for_selector(".library [role=status]:has-text('10,000 files')")
    few = page.evaluate("document.querySelectorAll('*').length")
    (first,) = set(asked)
    assert 20 <= int(first.removeprefix("0 to ")) <= 100, "as many as the screen takes, and some more"
    at_the_end = """() => {
        scrollTo(0, document.documentElement.scrollHeight);
        return [...document.querySelectorAll(".grid > li")].some((row) => row.textContent.includes("9999.wav"));
    }"""
    wait_until(lambda: page.evaluate(at_the_end))
    assert page.evaluate("document.querySelectorAll('*').length") < few + 300
    assert len(set(asked)) == 11
    before = asked.count(first)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_selector(".card:has-text('0.wav')")
    page.wait_for_selector(".grid > li:first-child .card:has-text('0.wav')")
    assert asked.count(first) == before + 1
    page.unroute_all()


def test_a_service_that_was_away_is_found_again(page: Any, refusals: list[str]) -> None:
    """Nobody presses anything: the list, the line about the library, and rooms that could not be loaded."""
    refusals += ["/v1/assets?", "/web/map.js", "/v1/assets/%25E0%25A4%25A", "/v1/collections", "/v1/library"]
    for path in ("**/v1/assets?*", "**/web/map.js", "**/v1/collections", "**/v1/library"):
        page.route(path, lambda route: route.abort())
    page.evaluate("location.hash = '#/library/%E0%A4%A'")  # no text: it must not end the page
    page.wait_for_selector(".library [role=status]:has-text('does not answer')")
    go(page, "map")
    page.wait_for_selector(".room .problem, main > .problem")
    go(page, "basket")
    page.wait_for_selector(".fault:has-text('does not answer')")
    page.wait_for_selector("#library:has-text('does not answer')")
    assert "Nothing is in it yet" not in page.text_content("main")
    page.unroute_all()
    page.wait_for_selector("#library:has-text('Library: ')")
    page.wait_for_selector(".fault", state="hidden")
    go(page, "library")
    page.wait_for_selector(".card")
    go(page, "map")
    page.wait_for_selector(".map canvas")


def test_the_explorer_needs_no_internet(browser: Any, hostile_server: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{hostile_server}/docs")
        page.wait_for_selector(".swagger-ui .info:has-text('Foley')")
        assert not [url for url in requested if not url.startswith((hostile_server, "data:", "blob:"))]
