"""Words of file names and metadata, as they are stored and as they are asked for.

    split_words("DOORWood_Squeak-02")     # ["doorwood", "door", "wood", "squeak", "02", "2"]
    to_search_words("the squeaking door") # ("squeak", "door")

A word of a query finds every stored word that begins with it: `door` finds `doors` and `doorbell`. An asset counts if
it has at least half of the query's words; those with more words come first, then those that have them whole, then those
with few other words. Case, accents and compatibility forms are folded; `ä` is found as `a` and as `ae`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from service.index.payload import SAID, load_path

WORDS_KEY = "words"
DECLINED = ":declined"
"""End of a key of metadata whose values are what an asset is not: `tags:declined`."""
WORDLESS = ("coding_history", "originator_reference")
"""Keys whose values are no words."""
NO_WORDS = [""]
"""Stored for an asset without words: a key that is empty would look like one that is missing."""
MAX_WORDS = 256
MAX_WORD_CHARS = 64
MAX_SEARCH_WORDS = 16
NUM_CANDIDATES = 100
"""How many assets are ordered, of those with equally many words; more if more results are wanted."""
ENDINGS = ("ing", "es", "ed", "s")
MIN_STEM = 4
"""Letters that a word of a query keeps when it loses an English ending: `barks` finds `barking`."""
STOP_WORDS = frozenset(
    "a an and are as at be by for from in into is it its of on or the to with "
    "am auf das dem den der des die ein eine im in mit und von zu zum zur".split()
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "AE", "Ö": "OE", "Ü": "UE"})
# a name in capitals before a capitalised one (DOOR|Wood), then what begins with a capital, then digits
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_DIGITS = re.compile(r"\d+|\D+")
_SIGNS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # written without spaces: each is a word


def split_words(text: str) -> list[str]:
    """The words of a text in folded form, each once: whole runs, their parts, and forms of them."""
    return list(dict.fromkeys(word for run in _runs(text) for word in _forms(run)))


def _runs(text: str) -> list[str]:
    spaced = _SIGNS.sub(r" \g<0> ", unicodedata.normalize("NFKC", text))
    return "".join(sign if _is_of_a_word(sign) else " " for sign in spaced).split()


def _is_of_a_word(sign: str) -> bool:
    return sign.isalnum() or unicodedata.category(sign).startswith("M")  # marks: vowels, in some scripts


def _forms(run: str) -> Iterable[str]:
    for form in dict.fromkeys((_fold(run), _fold(run.translate(_UMLAUTS)))):
        yield form.casefold()[:MAX_WORD_CHARS]
        for part in (_PARTS if form.isascii() else _DIGITS).findall(form):
            yield part.casefold()[:MAX_WORD_CHARS]
            if part.isdigit():
                yield part.lstrip("0") or "0"


def _fold(text: str) -> str:
    """Without accents; case stays."""
    parts = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(sign for sign in parts if not unicodedata.combining(sign))


def describe_words(payload: Mapping[str, Any]) -> dict[str, list[str]]:
    """The payload with the words of an asset's file names and metadata, from its `paths`, `metadata` and `media`."""
    texts = [PurePosixPath(load_path(path)).stem for path in payload["paths"]]
    for key, given in {**payload.get("media", {}).get(SAID, {}), **payload["metadata"]}.items():
        if key.endswith(DECLINED) or key in WORDLESS:
            continue
        texts += [
            value for value in (given if isinstance(given, list) else [given]) if isinstance(value, str)
        ]
    words = dict.fromkeys(word for text in texts for word in split_words(text))
    return {WORDS_KEY: list(words)[:MAX_WORDS] or NO_WORDS}


def to_search_words(text: str) -> tuple[str, ...]:
    """The words that a query asks for: without small words if there are others, endings cut, at most 16."""
    runs = [_fold(run).casefold()[:MAX_WORD_CHARS] for run in _runs(text)]
    telling = [run for run in runs if run not in STOP_WORDS] or runs
    return tuple(dict.fromkeys(map(_cut, telling)))[:MAX_SEARCH_WORDS]


def _cut(word: str) -> str:
    for ending in ENDINGS:
        if word.endswith(ending) and word.isalpha() and len(word) - len(ending) >= MIN_STEM:
            return word.removesuffix(ending)
    return word.lstrip("0") or word if word.isdigit() else word


def rank_by_words(
    words: Sequence[str], limit: int, find: Callable[[int, int], Iterable[Mapping[str, Any]]]
) -> list[str]:
    """Ids of the best `limit` assets for the words of a query.

    `find(least, limit)` gives the `asset_id` and `words` of some assets that have at least so many of the words.
    """
    found: dict[str, Sequence[str]] = {}
    for least in range(len(words), (len(words) - 1) // 2, -1):
        found |= {head["asset_id"]: head[WORDS_KEY] for head in find(least, max(limit, NUM_CANDIDATES))}
        if len(found) >= limit:
            break
    return sorted(found, key=lambda asset_id: (_fit(words, found[asset_id]), asset_id))[:limit]


def _fit(words: Sequence[str], stored: Sequence[str]) -> tuple[int, int, int]:
    begun = sum(any(one.startswith(word) for one in stored) for word in words)
    return -begun, -len(set(words) & set(stored)), len(stored)
