"""The web page in a real browser: a search, a key, and questions of jobs."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.foley import open_foley
from service.library.indexing import index_paths
from service.operations.keys import create_key
from service.system.settings import Settings
from tests.support.libraries import write_tones
from tests.support.memory_index import memory_indexes
from tests.support.serving import run_server, serve_in_thread
from tests.support.waiting import wait_until

HOSTILE_NAME = "<img src=x onerror=document.title=1>.mp4"


def test_a_search_in_a_browser(page: Any, hostile_file: Path) -> None:
    page.set_input_files("#file", hostile_file)
    assert page.text_content("#file-name") == HOSTILE_NAME
    page.wait_for_selector("#file-facts:has-text('00:24')")
    assert page.is_checked("input[value=audio]")
    page.click("#search")
    page.wait_for_selector("#results li")
    assert HOSTILE_NAME in page.text_content("#answer")
    (own,) = page.locator(f"#results li:has([title*='{HOSTILE_NAME}'])").all()
    assert own.locator(".name").text_content() == HOSTILE_NAME
    assert own.locator(".moments button").count() == 16
    assert own.locator(".moments .is-best").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_words_find_files_by_their_names(page: Any) -> None:
    """Without a clip, and with a bundle that embeds no words: no score, no moments, a player."""
    page.click("#search")
    page.wait_for_selector("#status:has-text('Choose a clip or write some words first.')")
    page.fill("#text", "img onerror")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    assert page.locator("#results li").count() == 1
    assert page.locator("#results .name").text_content() == HOSTILE_NAME
    assert page.locator("#results .moments, #results .score").count() == 0
    assert "named so" in page.text_content("#results")
    assert "for “img onerror”" in page.text_content("#answer")
    assert page.locator("#results audio, #results video").count() == 1
    page.fill("#text", "xylophone")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer:has-text('no name and no metadata has half of the words')")


def test_a_long_name_stays_on_a_narrow_screen(page: Any, hostile_file: Path, tmp_path: Path) -> None:
    name = "x" * 196 + ".mp4"
    page.set_input_files("#file", shutil.copy(hostile_file, tmp_path / name))
    page.click("#search")
    page.wait_for_selector("#results li")
    assert name in page.text_content("#answer")
    for part in ("html", "#form", "section", "#answer"):
        assert page.locator(part).evaluate("e => e.scrollWidth - e.clientWidth") <= 0, part
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_result_plays_from_a_moment_and_with_the_clip(page: Any, hostile_file: Path) -> None:
    page.set_input_files("#file", hostile_file)
    page.click("#search")
    result = page.locator("#results li").first
    player = result.locator("audio")
    best = result.locator(".is-best")
    best.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    player.evaluate("e => e.paused && new Promise(done => e.addEventListener('playing', done))")
    start = float(player.evaluate("e => e.currentTime"))
    assert start % 10 == pytest.approx(10 / 16, abs=2)  # the second of 16; the player has gone on since
    result.get_by_role("button", name="Play with your picture").click()
    preview = page.locator("#preview video")
    preview.evaluate("e => e.paused && new Promise(done => e.addEventListener('playing', done))")
    assert preview.evaluate("e => e.muted")
    assert not player.evaluate("e => e.muted")
    player.evaluate("e => e.pause()")
    preview.evaluate("e => e.paused || new Promise(done => e.addEventListener('pause', done))")


def test_play_together(page: Any, hostile_file: Path) -> None:
    """The sound of a result under the query's picture: in step, moved by the offset, stopped as one."""
    page.set_input_files("#file", hostile_file)
    page.click("#search")
    page.wait_for_selector("#results li .moments")
    result = page.locator("#results li").first
    assert result.locator(".offset").count() == 0
    result.get_by_role("button", name="Play with your picture").click()
    follower = result.locator("audio").element_handle()
    page.evaluate(
        """(follower) => {
            const leader = document.querySelector("#preview video");
            window.apart = () => follower.currentTime - leader.currentTime;
            window.until = (holds) => new Promise((done) => {
                const look = () => (holds(leader, follower) ? done(true) : requestAnimationFrame(look));
                look();
            });
        }""",
        follower,
    )
    both_play = "until((leader, follower) => [leader, follower].every((p) => !p.paused && p.readyState > 1))"
    assert page.evaluate(both_play)
    assert page.evaluate("document.querySelector('#preview video').muted")
    start = page.evaluate("apart()")
    page.evaluate("until((leader) => leader.currentTime > 0.5)")
    slider = result.locator(".offset input")
    assert slider.get_attribute("aria-valuetext") == "in step"
    for wanted, said in ((-1, "1.00 s earlier"), (0, "in step")):
        slider.fill(str(wanted))
        page.wait_for_selector(f".offset:has-text('{said}')")
        assert page.evaluate(f"until(() => Math.abs(apart() - {start} + {wanted}) < 0.5)")
    page.evaluate("(follower) => follower.pause()", follower)
    assert page.evaluate("until((leader) => leader.paused && !leader.muted)")
    page.wait_for_selector(".offset", state="detached")


def test_an_error_in_a_browser(page: Any, tmp_path: Path, refusals: list[str]) -> None:
    refusals.append("/v1/search")
    notes = tmp_path / "notes.txt"
    notes.write_text("words are not media\n" * 20)
    page.set_input_files("#file", notes)
    page.click("#search")
    page.wait_for_selector("#problem:has-text('The file is not a media file of a known kind')")
    assert page.locator("#results li").count() == 0
    assert page.is_enabled("#search")


def test_a_dropped_file_and_a_cancelled_search(page: Any) -> None:
    page.route("**/v1/search", lambda route: None)  # an answer that never comes
    drop = page.evaluate_handle(
        "() => { const drop = new DataTransfer(); drop.items.add(new File(['x'], 'rain.wav')); return drop; }"
    )
    page.dispatch_event("footer", "drop", {"dataTransfer": drop})
    assert page.text_content("#file-name") == "rain.wav"
    assert page.is_checked("input[value=video]")
    page.click("#search")
    page.click("#cancel")
    page.wait_for_selector("#status:has-text('Cancelled.')")
    assert page.is_enabled("#search")
    assert page.is_hidden("#progress")
    page.unroute_all()


def test_a_key_is_asked_for_and_used(
    browser: Any, library_files: Path, bundle_path: Path, tmp_path: Path
) -> None:
    """With API keys the page shows a field, keeps what is typed for the tab, and players work too."""
    key = create_key(tmp_path / "api-keys.json", name="page", scope="read").key
    settings = Settings(data=tmp_path, bundle=bundle_path, device="cpu", min_free_bytes=0)
    clip = min(library_files.glob("0*.mp4"))
    with open_foley(settings) as foley:
        index_paths([clip], snapshot=foley.snapshot(), decoder=foley.decoder)
    guarded = {
        "DATA": tmp_path,
        "BUNDLE": bundle_path,
        "DEVICE": "cpu",
        "API_KEYS_FILE": settings.keys_path,
        "LIBRARY_ROOTS": library_files,
    }
    with run_server(guarded, tmp_path / "log") as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#key-form:visible")
        page.set_input_files("#file", clip)
        page.click("#search")
        page.wait_for_selector("#problem:visible:has-text('needs a key')")
        page.fill("#key", "foley_wrong")
        page.press("#key", "Enter")
        page.wait_for_selector("#key-note:has-text('not valid')")
        assert context.cookies(f"{address}/v1/assets") == []  # what was refused is not kept
        assert page.evaluate("sessionStorage.length") == 0
        page.fill("#key", key)
        page.press("#key", "Enter")
        page.wait_for_selector("#library:has-text('1 file')")
        (cookie,) = context.cookies(f"{address}/v1/assets")
        assert (
            0 < cookie["expires"] - time.time() <= 300
        )  # it outlives the tab by minutes, not with the browser
        page.wait_for_selector("#status:has-text('Key accepted. Search again.')")
        assert page.is_hidden("#key-form")
        assert page.is_hidden("#problem")
        assert "Bearer" not in page.text_content("body")  # words for programs
        page.set_input_files("#file", clip)
        page.click(".choice label:has(input[value=video])")
        page.click("#search")
        player = page.locator("#results li video").first
        player.evaluate(
            "e => e.readyState >= 1 || new Promise(done => e.addEventListener('loadedmetadata', done))"
        )
        page.reload()
        page.wait_for_selector("#library:has-text('1 file')")  # kept for the tab
        page.evaluate("sessionStorage.setItem('foley-key', 'revoked')")  # in the middle of the work
        page.evaluate("location.hash = '#/basket'")
        page.wait_for_selector("#key-note:has-text('revoked')")
        page.wait_for_selector(".fault:has-text('An API key is needed.')")
        page.fill("#key", key)
        page.press("#key", "Enter")
        page.wait_for_selector("main:has-text('Nothing is in it yet')")
        assert page.is_hidden("#key-form")
        assert page.evaluate("localStorage.length") == 0
    assert key not in (tmp_path / "log").read_text()


def test_an_empty_library_in_a_browser(page: Any) -> None:
    assert page.is_hidden("#empty")
    library = page.evaluate("fetch('/v1/library').then((answer) => answer.json())")
    empty = {**library, "num_assets": 0, "num_segments": 0}
    page.route("**/v1/library", lambda route: route.fulfill(json=empty))
    page.reload()
    page.wait_for_selector("#empty:has-text('foley index')")
    assert "Library: 0 files" in page.text_content("#library")


def test_the_page_offers_what_the_bundle_embeds(page: Any) -> None:
    library = page.evaluate("fetch('/v1/library').then((answer) => answer.json())")
    library["bundle"] |= {
        "tracks": {"audio": [1, 512]},
        "compares": False,
        "attribution": ["Ears by Somebody, MIT"],
    }
    page.route("**/v1/library", lambda route: route.fulfill(json=library))
    page.reload()
    page.wait_for_selector("#attribution:has-text('Ears by Somebody')")
    assert page.is_disabled('input[name="target"][value="video"]')
    assert page.is_disabled('#source option[value="video"]')
    assert page.is_checked('input[name="target"][value="audio"]')
    library["bundle"]["tracks"]["video"] = [16, 1280]
    page.reload()
    page.wait_for_selector('input[name="target"][value="video"]:enabled')
    content = io.BytesIO()
    Image.new("RGB", (64, 48), "#c80000").save(content, "PNG")
    page.set_input_files("#file", {"name": "dog.png", "mimeType": "image/png", "buffer": content.getvalue()})
    page.wait_for_selector("#preview img:visible")
    assert page.is_checked('input[name="target"][value="video"]'), "sound and picture do not compare"
    assert page.evaluate("document.querySelector('#preview img').naturalWidth") == 64
    page.reload()  # the fixture looks for pictures that hostile names have made
    page.wait_for_selector("#preview", state="hidden")


def test_the_library_is_asked_again(page: Any, hostile_file: Path) -> None:
    """What was indexed and switched beside the open page shows after a search, and when the page is seen again."""
    library = page.evaluate("fetch('/v1/library').then((answer) => answer.json())")
    empty = {**library, "num_assets": 0, "num_segments": 0, "bundle_id": "bundle-of-before"}
    page.route("**/v1/library", lambda route: route.fulfill(json=empty))
    page.reload()
    page.wait_for_selector("#empty:visible")
    assert "bundle-of-before" in page.text_content("#library")
    page.unroute("**/v1/library")
    page.set_input_files("#file", hostile_file)
    page.click("#search")
    page.wait_for_selector("#results li")
    page.wait_for_selector("#library:not(:has-text(' 0 files')):not(:has-text('bundle-of-before'))")
    assert page.is_hidden("#empty")
    page.route("**/v1/library", lambda route: route.fulfill(json=empty))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#library:has-text(' 0 files')")
    page.unroute_all()


def test_a_search_by_keyboard_keeps_its_place(page: Any, hostile_file: Path) -> None:
    focused = "document.activeElement.id"
    page.set_input_files("#file", hostile_file)
    page.route("**/v1/search", lambda route: None)  # an answer that never comes
    page.focus("#search")
    page.keyboard.press("Enter")
    page.wait_for_selector("#progress:visible")
    assert page.is_disabled("#search")
    assert page.evaluate(focused) == "search"
    page.keyboard.press("Enter")  # one search at a time
    page.focus("#cancel")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:has-text('Cancelled.')")
    page.wait_for_function(f"{focused} === 'search'")
    page.unroute_all()
    answer = page.locator(
        "[role=status]#answer"
    )  # a change of its text is read out only while it is rendered
    assert answer.evaluate("e => getComputedStyle(e).display") != "none"
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    assert page.evaluate(focused) == "search"
    assert "found" in answer.text_content()


def test_two_dropped_files_are_said(page: Any) -> None:
    drop = page.evaluate_handle(
        """() => {
            const drop = new DataTransfer();
            for (const name of ['rain.wav', 'wind.wav']) drop.items.add(new File(['x'], name));
            return drop;
        }"""
    )
    page.dispatch_event("footer", "drop", {"dataTransfer": drop})
    assert page.text_content("#file-name") == "rain.wav"
    assert "the first of 2 is used" in page.text_content("#status")
    assert "Press Search" in page.text_content("#waiting")
    assert page.is_visible("#waiting")


def test_refusals_are_told_in_words_for_people(page: Any, hostile_file: Path, refusals: list[str]) -> None:
    refusals += ["/v1/search", "/livez"]
    page.set_input_files("#file", hostile_file)
    too_large = {
        "title": "The request is too large",
        "code": "too_large",
        "detail": "the body has 314573170 bytes; this route takes 268435456",
    }
    page.route("**/v1/search", lambda route: route.fulfill(status=413, json=too_large))
    page.click("#search")
    page.wait_for_selector("#problem:has-text('has 314.6 MB; it takes 268.4 MB')")
    page.unroute_all()
    page.route("**/v1/search", lambda route: route.abort())
    page.click("#search")
    page.wait_for_selector("#problem:has-text('The connection broke')")
    page.route("**/livez", lambda route: route.abort())
    page.click("#search")
    page.wait_for_selector("#problem:has-text('The service does not answer')")
    page.unroute_all()


@pytest.mark.parametrize(
    ("reason", "words"),
    [("nothing_to_search", "the library has none."), ("below_min_score", "none reaches the minimum score")],
)
def test_no_results_say_why(page: Any, hostile_file: Path, reason: str, words: str) -> None:
    page.set_input_files("#file", hostile_file)
    answer = {
        **dict.fromkeys(("bundle_id", "release_id"), "none"),
        "target": "audio",
        "from": "video",
        "query": {"is_partial": False, "num_segments": 1},
        "results": [],
        "reason": reason,
    }
    page.route("**/v1/search", lambda route: route.fulfill(json=answer))
    page.click("#search")
    page.wait_for_selector(f"#answer:has-text('{words}')")
    page.unroute_all()


def test_a_result_without_a_player_fills_its_row(page: Any, hostile_file: Path, refusals: list[str]) -> None:
    refusals.append("/media")
    page.set_viewport_size({"width": 1200, "height": 800})
    page.route("**/v1/assets/*/media*", lambda route: route.fulfill(status=404, json={"title": "Gone"}))
    page.set_input_files("#file", hostile_file)
    page.click("#search")
    result = page.locator("#results li.has-no-player").first
    result.wait_for()
    assert "Gone" in result.text_content()
    assert result.get_by_role("button", name="Play with").count() == 0
    row, facts = (part.evaluate("e => e.clientWidth") for part in (result, result.locator(".facts")))
    assert facts == row
    page.unroute_all()


def test_a_sync_that_would_remove_most_asks_on_the_page(
    browser: Any, bundle_path: Path, tmp_path: Path
) -> None:
    files = write_tones(tmp_path / "media", 24)
    settings = Settings(
        data=tmp_path / "data",
        bundle=bundle_path,
        device="cpu",
        min_free_bytes=0,
        num_threads=1,
        decode_workers=1,
    )
    with memory_indexes(), serve_in_thread(settings) as running, browser.new_context() as context:

        def run(**fields: Any) -> dict[str, Any]:
            request = {"kind": "sync", "paths": [str(tmp_path / "media")], **fields}
            address = running.client.post("/v1/jobs", json=request).headers["location"]
            return wait_until(lambda: (job := running.client.get(address).json())["ended_at"] and job)

        assert run()["state"] == "done"
        for file in files[4:]:
            file.unlink()
        assert run()["error"]["code"] == "too_many_gone"
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(running.address)
        page.wait_for_selector("#questions .problem:has-text('20 of')")
        page.screenshot(path=tmp_path / "question.png")
        page.click("#questions button")
        page.wait_for_selector("#questions p:has-text('The sync runs again')")
        wait_until(lambda: len(running.client.get("/v1/assets").json()["assets"]) == 4)
        page.reload()
        page.wait_for_selector("#library:has-text('4 files')")
        assert page.locator("#questions .problem").count() == 0
