"""The page of two releases: well formed, by itself, and safe whatever names and reasons hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from service.releases.comparison import compare_releases
from service.releases.gates import describe_gates, judge
from service.releases.store import Release
from tests.support.gates import GOOD, LIMITS, TRIAL

VOID = {"meta", "br"}
EVIL = "<script>alert(1)</script>\"&'><img src=x onerror=y>"


class Page(HTMLParser):
    """Reads a page: open and closed elements have to fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_release(name: str, *, overlap: float | None = 0.4, **fields: object) -> Release:
    gates = judge(
        LIMITS,
        trial=TRIAL,
        num_assets=100,
        num_embedded=100,
        new=GOOD,
        active=GOOD,
        overlap=overlap,
    )
    described = describe_gates(gates, TRIAL, {"new": GOOD, "active": GOOD})
    return Release(
        **{
            "release_id": name,
            "bundle_id": f"{name}-bundle",
            "outcome": "ready",
            "created_at": 0.0,
            "library": {"num_assets": 100},
            "gates": described,
            **fields,
        }  # type: ignore[arg-type]
    )


def test_both_releases_with_figures_and_gates() -> None:
    page = Page(compare_releases(make_release("first"), make_release("second", overlap=0.05)))
    for words in (
        "first",
        "second",
        "60.0",
        "50.0",
        "40.0",
        "100.0",
        "1970-01-01 00:00 UTC",
        "failed",
        "286.1",
    ):
        assert words in page.text
    assert page.tags.count("i") == 2 * (6 + 1 + 1 + 1)  # six recalls, overlap, latency, memory


def test_bars_are_as_long_as_their_values() -> None:
    text = compare_releases(make_release("first", overlap=0.5), make_release("second", overlap=0.25))
    part = text.partition("Overlap of the ten best")[2]
    long, short = (float(found) for found in re.findall(r'<i style="width:([0-9.]+)%', part)[:2])
    assert long == pytest.approx(2 * short, abs=0.2)  # written with one decimal


def test_releases_that_were_never_measured() -> None:
    first = make_release("first", gates={}, library={})
    second = make_release("second", gates={"passed": False, "reasons": ["it hangs"]}, outcome="refused")
    page = Page(compare_releases(first, second))
    assert "it was never measured" in page.text
    assert "it hangs" in page.text
    assert page.text.count("not measured") == 2 * (6 + 1 + 1 + 1)
    assert "not counted" in page.text


def test_a_release_without_gates_has_the_figures_of_the_active_one() -> None:
    """Only the first release is never measured; what the other was measured beside has the same figures."""
    first, second = make_release("first", gates={}), make_release("second", overlap=0.25)
    for pair in ((first, second), (second, first)):
        text = compare_releases(*pair)
        page = Page(text)
        assert "not measured" not in page.text.replace("not measured for this release itself", "")
        assert "active when second was measured" in page.text
        assert text.count('class="bar active"') == 6 + 1 + 1 + 1
    assert 'class="bar active"' not in compare_releases(second, second)


def test_a_refused_release_has_no_figures_of_another() -> None:
    refused = make_release("refused", gates={"passed": False, "reasons": ["it hangs"]})
    text = compare_releases(refused, make_release("second"))
    assert text.count("not measured") == 6 + 1 + 1 + 1
    assert 'class="bar active"' not in text


def test_the_page_fits_a_telephone() -> None:
    assert '<meta name="viewport" content="width=device-width' in compare_releases(
        make_release("first"), make_release("second")
    )


def test_the_page_refers_to_nothing() -> None:
    text = compare_releases(make_release("first"), make_release("second"))
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not {"src", "href", "action", "srcset", "data"} & {name for name, _ in page.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text


def test_names_and_reasons_are_text() -> None:
    release = make_release(
        "evil",
        bundle_id=EVIL,
        gates={"reasons": [EVIL]},
        forced={"who": EVIL, "why": EVIL, "at": "0"},
    )
    text = compare_releases(release, make_release("second"))
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count(EVIL) == 4
    assert "<script" not in text
