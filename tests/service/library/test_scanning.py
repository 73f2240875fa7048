"""Walking a library whose folders hold whatever people and programs leave in folders."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.media.clip import EmptyFile, NotARegularFile
from service.decode.lane import Task, _open_file
from service.library import scanning
from service.library.scanning import (
    FoundFile,
    IgnoredFile,
    LinkedFolder,
    LinkRules,
    UnusableFile,
    check_unchanged,
    find_files,
    identify,
    sniff_media,
)
from service.system.paths import make_absolute, show_path

MP4_HEAD = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"


def _found(*paths: Path) -> list[str]:
    return [str(f.path) for f in find_files(paths) if isinstance(f, FoundFile)]


def _unusable(*paths: Path) -> list[tuple[str, str]]:
    return [(str(f.path), f.code) for f in find_files(paths) if isinstance(f, UnusableFile)]


def _ignored(*paths: Path) -> list[str]:
    return [f.path.name for f in find_files(paths) if isinstance(f, IgnoredFile)]


def test_folders_are_walked_in_order(tmp_path: Path) -> None:
    for name in ("b/2.mp4", "b/10.wav", "a/z/clip.MKV", "a/clip.mov", "top.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = ["top.ogg", "a/clip.mov", "a/z/clip.MKV", "b/10.wav", "b/2.mp4"]
    assert _found(tmp_path) == [str(tmp_path / name) for name in names]


def test_a_file_has_its_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    (found,) = find_files([path])
    assert found == FoundFile(path=path, size_bytes=5, modified_ns=1_700_000_000_123_456_789)


def test_what_is_not_media_is_passed_over_and_what_is_broken_is_not(tmp_path: Path) -> None:
    for name in ("notes.txt", "labels.csv", "cover.jpg", "clip.nfo", "source.ts", "list.m3u8", "empty.ts"):
        (tmp_path / name).write_bytes(
            b"" if name.startswith("empty") else b"#EXTM3U export const a = 1;" * 30
        )
    (tmp_path / "empty.webm").touch()
    (tmp_path / "text.mp4").write_text("not media, but it claims to be")
    assert [Path(path).name for path in _found(tmp_path)] == ["empty.webm", "text.mp4"]
    assert len(_ignored(tmp_path)) == 7


def test_a_named_file_is_always_tried(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert _found(tmp_path / "notes.txt") == [str(tmp_path / "notes.txt")]


def test_media_under_an_odd_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "recording").write_bytes(MP4_HEAD + b"\0" * 500)
    (tmp_path / "photo.heif").write_bytes(MP4_HEAD.replace(b"ftypmp42", b"ftypheic") + b"\0" * 500)
    assert _found(tmp_path) == [str(tmp_path / "recording")]


@pytest.mark.parametrize(
    "head",
    [
        MP4_HEAD,
        b"\x1aE\xdf\xa3\x01",
        b"OggS\0",
        b"fLaC\0",
        b"ID3\x04",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"RIFF\0\0\0\0AVI LIST",
        b"FORM\0\0\0\0AIFF",
        b"FLV\x01\x05",
        (b"\x47" + b"\0" * 187) * 3,
        (b"\0\0\0\0\x47" + b"\0" * 187) * 3,
        b"TTA1\x01",
        b".snd\0",
    ],
)
def test_containers_are_told_by_their_first_bytes(head: bytes) -> None:
    assert sniff_media(head)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"#EXTM3U\n",
        b"GIF89a",
        b"\x47import x",
        b"%PDF-1.7",
        b"\xff\xd8\xff",
    ],
)
def test_other_files_are_not_taken_for_media(head: bytes) -> None:
    assert not sniff_media(head)


def test_every_container_of_the_shared_media_is_told(shared_media: Path) -> None:
    for path in shared_media.glob("[av]*"):
        if path.name not in ("v17_zero_bytes.webm", "v30_truncated_nomoov.mp4"):
            assert sniff_media(path.read_bytes()[:512]), path.name


def test_links(tmp_path: Path) -> None:
    library, elsewhere = tmp_path / "library", tmp_path / "elsewhere"
    library.mkdir()
    elsewhere.mkdir()
    (elsewhere / "real.mp4").write_bytes(b"x")
    (library / "folder").symlink_to(elsewhere)
    (library / "up").symlink_to(library)
    (library / "file.mp4").symlink_to(elsewhere / "real.mp4")
    (library / "dangling.mp4").symlink_to(elsewhere / "gone.mp4")
    (library / "loop.mp4").symlink_to(library / "loop.mp4")
    (library / "dangling.txt").symlink_to(elsewhere / "gone.txt")
    # A linked file belongs to its folder; the linked folders are only named, and links that lead nowhere.
    assert _found(library) == [str(library / "file.mp4")]
    linked = [finding.path.name for finding in find_files([library]) if isinstance(finding, LinkedFolder)]
    assert linked == ["folder", "up"]
    assert _unusable(library) == [
        (str(library / "dangling.mp4"), "not_found"),
        (str(library / "loop.mp4"), "not_readable"),
    ]
    assert _found(library / "folder") == [str(library / "folder" / "real.mp4")]


def test_linked_folders_are_followed_once_where_that_is_wanted(tmp_path: Path) -> None:
    library, elsewhere = tmp_path / "library", tmp_path / "elsewhere"
    for name in ("library/z/a.mp4", "elsewhere/b.mp4", "elsewhere/deep/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (library / "again").symlink_to(library / "z")
    (library / "out").symlink_to(elsewhere)
    (library / "z" / "up").symlink_to(library)
    (elsewhere / "deep" / "back").symlink_to(library)
    (library / "out.mp4").symlink_to(elsewhere / "b.mp4")

    def names(**rules: object) -> list[str]:
        found = find_files([library], links=LinkRules(**rules))  # type: ignore[arg-type]
        return [str(f.path.relative_to(library)) for f in found if isinstance(f, FoundFile)]

    assert names() == ["out.mp4", "z/a.mp4"]
    assert names(follows_folders=True) == ["out.mp4", "z/a.mp4", "out/b.mp4", "out/deep/c.mp4"]
    assert names(follows_folders=True, within=(library,)) == ["z/a.mp4"]
    assert names(follows_folders=True, within=(library, elsewhere)) == names(follows_folders=True)


def test_a_folder_that_is_swapped_after_the_scan_is_not_entered(tmp_path: Path) -> None:
    library, outside = tmp_path / "library", tmp_path / "outside"
    for folder in (library / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "a.mp4").write_bytes(b"x")
        os.utime(folder / "a.mp4", ns=(1, 1))
    (found,) = find_files([library], links=LinkRules(within=[library]))
    assert isinstance(found, FoundFile)
    task = Task(
        file=found.source,
        follows_links=False,
        future=Future(),
        function=print,
        args=(),
        kwargs={},
        timeout_seconds=1,
    )
    with _open_file(task) as descriptor:
        assert descriptor is not None
    (library / "sub").rename(tmp_path / "aside")
    (library / "sub").symlink_to(outside)
    with pytest.raises(NotARegularFile):
        identify(found)
    with pytest.raises(NotARegularFile), _open_file(task):
        pass
    # What is named is looked at where it really is.
    for named in (library / "sub", library / "sub" / "a.mp4"):
        (finding,) = find_files([named], links=LinkRules(within=[library]))
        assert isinstance(finding, UnusableFile)
        assert finding.code == "path_not_allowed"
    # A library that is reached by a link is one, and a link that appears in its place is not followed.
    (tmp_path / "link").symlink_to(outside)
    (found,) = find_files([tmp_path / "link"], links=LinkRules(within=[tmp_path / "link"]))
    assert isinstance(found, FoundFile)
    assert (found.path, found.source) == (tmp_path / "link" / "a.mp4", outside / "a.mp4")
    assert identify(found) == hashlib.sha256(b"x").hexdigest()


def test_a_folder_that_is_swapped_while_it_is_opened_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, outside = tmp_path / "library", tmp_path / "outside"
    for folder in (library / "sub", outside):
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.mp4").write_bytes(b"x")
    opened = scanning.open_without_links

    def swap_before(path: Path) -> int:
        if path.name == "sub":
            path.rename(tmp_path / "aside")
            path.symlink_to(outside)
        return opened(path)

    monkeypatch.setattr(scanning, "open_without_links", swap_before)
    (found,) = find_files([library])
    assert isinstance(found, UnusableFile)


@pytest.mark.parametrize("time_ns", [0, -1, -11_676_096_000 * 10**9, 64_060_588_800 * 10**9, 2**63, 2**70])
def test_a_time_that_no_clock_has_is_brought_within_64_bits(tmp_path: Path, time_ns: int) -> None:
    """What a file system keeps of it differs, so the answer of the system is made up as well."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    os.utime(path, ns=(time_ns, time_ns))
    lstat, fstat = Path.lstat, os.fstat

    def with_time(status: os.stat_result) -> SimpleNamespace:
        names = [name for name in dir(status) if name.startswith("st_")]
        return SimpleNamespace(**{**{n: getattr(status, n) for n in names}, "st_mtime_ns": time_ns})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "lstat", lambda path: with_time(lstat(path)))
        patch.setattr(os, "fstat", lambda descriptor: with_time(fstat(descriptor)))
        (found,) = find_files([path])
        assert isinstance(found, FoundFile)
        assert found.modified_ns == max(1 - 2**63, min(time_ns, 2**63 - 1))
        assert identify(found) == hashlib.sha256(b"content").hexdigest()


def test_a_link_that_no_system_call_follows(tmp_path: Path) -> None:
    """Its target's name is too long for any file: an error of another kind than that of a missing file."""
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "broken").symlink_to("n" * 300)
    (tmp_path / "broken.mp4").symlink_to("n" * 300)
    (tmp_path / "z.mp4").write_bytes(b"x")
    assert _found(tmp_path) == [str(tmp_path / "a.mp4"), str(tmp_path / "z.mp4")]
    assert _unusable(tmp_path) == [(str(tmp_path / "broken.mp4"), "not_readable")]


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe")
    assert _unusable(tmp_path) == [(str(tmp_path / "pipe.mp4"), "not_a_file")]
    assert _ignored(tmp_path) == ["pipe"]
    assert _unusable(tmp_path / "pipe", Path("/dev/zero")) == [
        (str(tmp_path / "pipe"), "not_a_file"),
        ("/dev/zero", "not_a_file"),
    ]


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    (found,) = find_files([path])
    assert isinstance(found, FoundFile)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(NotARegularFile, match="only regular files"):
        identify(found)


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    (tmp_path / "clip.mp4" / "inside.mp4").write_bytes(b"x")
    assert _found(tmp_path) == [str(tmp_path / "clip.mp4" / "inside.mp4")]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    (path,) = _found(tmp_path)
    assert os.fsencode(path) == os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    assert show_path(path) == f"{tmp_path}/caf\\xe9.mp4"


def test_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"x")
    here = tmp_path / "in" / ".." / "in"
    assert _found(tmp_path, tmp_path / "in", tmp_path / "in" / "a.mp4", here) == [
        str(tmp_path / "in" / "a.mp4")
    ]


def test_missing_paths_are_named(tmp_path: Path) -> None:
    assert _unusable(tmp_path / "none") == [(str(tmp_path / "none"), "not_found")]


def test_a_very_deep_folder(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(1200):  # deeper than Python's recursion limit, shorter than the longest path
        deep = deep / "d"
        deep.mkdir()
    (deep / "a.mp4").write_bytes(b"x")
    assert _found(tmp_path) == [str(deep / "a.mp4")]
    (deep / "a.mp4").unlink()
    while deep != tmp_path:  # what cleans up after the test is recursive
        deep.rmdir()
        deep = deep.parent


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"content")
    (found,) = find_files([tmp_path])
    assert isinstance(found, FoundFile)
    assert identify(found) == hashlib.sha256(b"content").hexdigest()
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(EmptyFile):
        identify(FoundFile(path=tmp_path / "empty.mp4", size_bytes=0, modified_ns=0))


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    (found,) = find_files([path])
    assert isinstance(found, FoundFile)
    check_unchanged(found)
    os.utime(path, ns=(1, 1))
    for check in (check_unchanged, identify):
        with pytest.raises(UnusableFile, match="changed while it was read"):
            check(found)
    path.unlink()
    with pytest.raises(UnusableFile, match="no such file"):
        check_unchanged(found)


def test_paths_are_made_absolute_without_following_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert make_absolute(Path("link/../link/a.mp4")) == tmp_path / "link" / "a.mp4"
