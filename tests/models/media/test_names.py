"""One rule of what is ignored, for indexing and training alike."""

from pathlib import Path

import pytest

from models.media.names import is_ignored
from service.library.scanning import find_files
from training.data.listing import list_items

IGNORED = [
    ".hidden", ".Trashes", ".Trash-1000", ".DS_Store", "._a.mp4", "$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", "@eaDir",
    "#recycle", "@Recycle", "#snapshot", "System Volume Information", "lost+found", "__MACOSX",
]  # fmt: skip
KEPT = ["$money", "recycle", "#1 takes", "@home", "System", "lost and found", "a.mp4", "\udcff"]


@pytest.mark.parametrize("name", [*IGNORED, *KEPT])
def test_indexing_and_training_skip_the_same(tmp_path: Path, name: str) -> None:
    assert is_ignored(name) == (name in IGNORED)
    folder = tmp_path / "library" / name
    folder.mkdir(parents=True)
    kept = tmp_path / "library" / "kept" / "b.mp4"
    kept.parent.mkdir()
    for path in (folder / "a.mp4", kept, kept.with_name("._b.mp4")):
        path.write_bytes(b"x")
    expected = {kept} | ({folder / "a.mp4"} if name in KEPT else set())
    assert {found.path for found in find_files([tmp_path / "library"])} == expected
    assert {item.path for item in list_items([tmp_path / "library"])} == expected
    assert [item.path for item in list_items([folder])] == [folder / "a.mp4"]  # who names it means it
    assert [found.path for found in find_files([folder])] == [folder / "a.mp4"]
