"""Words of names: how they are split, folded and asked for."""

from __future__ import annotations

from typing import Any

import pytest

from service.index.words import MAX_SEARCH_WORDS, NO_WORDS, describe_words, split_words, to_search_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DOORWood_Squeak-02", "doorwood door wood squeak 02 2"),
        ("AMBRain take12", "ambrain amb rain take12 take 12"),
        ("HTTPServer2Go", "httpserver2go http server 2 go"),
        ("iPhone.recording", "iphone i phone recording"),
        ("Türknarren", "turknarren tuerknarren"),
        ("STRAẞE straße", "strasse"),
        ("É́clair ﬁre", "eclair fire"),
        ("犬の声 Собака", "犬 の 声 собака"),
        ("हिन्दी पानी", "हिनदी पानी"),
        ("__ !!", ""),
    ],
)
def test_words_are_split_and_folded(text: str, words: str) -> None:
    assert split_words(text) == words.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the squeaking doors", "squeak door"),
        ("dog barking in the rain", "dog bark rain"),
        ("In The", "in the"),
        ("Tür 02", "tur 2"),
        ("DOORWood", "doorwood"),
        ("string bus 7s", "string bus 7s"),
        ("door Door DOORS", "door"),
        ("?!", ""),
    ],
)
def test_what_a_query_asks_for(text: str, words: str) -> None:
    assert to_search_words(text) == tuple(words.split())


def test_a_long_query_asks_for_a_few_words() -> None:
    assert len(to_search_words(" ".join(f"word{n}" for n in range(99)))) == MAX_SEARCH_WORDS


def test_every_word_that_is_asked_for_is_found_in_the_same_text() -> None:
    for text in ("Straße 007", "Évènements", "noises", "犬の声", "DOORWood Squeaks"):
        stored = split_words(text)
        assert all(any(one.startswith(word) for one in stored) for word in to_search_words(text)), text


@pytest.mark.parametrize(
    ("paths", "said", "words"),
    [
        (["/Library/Rain/a_dog.mp4"], {"take": 3, "ok": True}, ["a", "dog"]),
        (["/x/a.wav", "/y/b.wav"], {"mood": ["Calm", 3, "cold calm"]}, ["a", "b", "calm", "cold"]),
        (["\0raw:2f63616665cc2e6d7034"], {}, ["cafe"]),  # a name that is not UTF-8
        (["/x/--.wav"], {}, NO_WORDS),
    ],
)
def test_an_asset_has_the_words_of_its_names_and_metadata(
    paths: list[str], said: dict[str, Any], words: list[str]
) -> None:
    assert describe_words({"paths": paths, "metadata": said}) == {"words": words}
