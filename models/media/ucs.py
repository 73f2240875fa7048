"""Names after the Universal Category System, `CatID_FXName_CreatorID_SourceID`, by its list of version 8.2.1.

read_ucs("DOORWood-INT_Old Gate-Creak_TN_DORY.wav")["ucs_category"]   # "DOORS-WOOD"
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path, PurePath

LIST = Path(__file__).with_name("ucs.csv")
"""Columns `id`, `category` and `subcategory`; from github.com/iluvcapra/ucs-community, CC0 1.0."""


def read_ucs(path: str) -> dict[str, str]:
    """What the name of a file says; nothing unless it begins with a category of the list, in its letters, and `_`."""
    first, *parts = (part.strip() for part in PurePath(path).stem.split("_"))
    category_id, _, user_category = first.partition("-")
    category = _categories().get(category_id)
    if category is None or not parts:
        return {}
    fx_name, creator, source, *others = (*parts, "", "")
    said = {
        "ucs_category_id": category_id,
        "ucs_category": category,
        "ucs_user_category": user_category,
        "ucs_fx_name": fx_name,
        "ucs_creator": creator,
        "ucs_source": source,
        "ucs_user_data": "_".join(filter(None, others)),
    }
    return {key: text for key, text in said.items() if text.isprintable() and text}


@cache
def _categories() -> dict[str, str]:
    with LIST.open(encoding="utf-8", newline="") as file:
        return {row["id"]: f"{row['category']}-{row['subcategory']}" for row in csv.DictReader(file)}
