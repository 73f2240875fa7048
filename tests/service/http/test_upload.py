"""Uploads: forms parsed however the network cuts them, files kept privately and gone afterwards."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from service.http.upload import (
    DuplicateField,
    FormReader,
    MalformedBody,
    MissingFile,
    NotMultipart,
    TooManyParts,
    UploadDiskFull,
    UploadFolder,
    read_boundary,
    write_all,
)


def test_file_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path / "uploads", reserve_bytes=0)
    with folder.create() as (path, file):
        assert folder.write(file, [b"ab", b"c"]) == 3
        assert path.read_bytes() == b"abc"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), folder.create() as (path, _):
        _ = 1 / 0
    assert not path.exists()
    folder.close()
    assert not path.parent.exists()


def test_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    old, new, other = tmp_path / "serve-old", tmp_path / "serve-new", tmp_path / "precious"
    for path in (old, new, other):
        path.mkdir()
        (path / "file").touch()
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    UploadFolder(tmp_path, reserve_bytes=0).close()
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(UploadDiskFull, match="no room"):
        write_all(full, b"x" * 10)
    folder = UploadFolder(tmp_path / "uploads", reserve_bytes=2**60)
    with folder.create() as (path, file), pytest.raises(UploadDiskFull, match="bytes free"):
        folder.write(file, [b"x"])
    assert not path.exists()


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="target"\r\n\r\naudio\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
    b"\r\n--b not a boundary\r\n--\x00\xff\r\n"
    b'\r\n--b\r\nContent-Disposition: form-data; name="limit"\r\n\r\n5\r\n--b--\r\n'
)
CONTENT = b"\r\n--b not a boundary\r\n--\x00\xff\r\n"


def read(body: bytes, step: int, boundary: bytes = b"b") -> tuple[dict[str, str], bytes]:
    reader = FormReader(boundary)
    for at in range(0, len(body), step):
        reader.feed(body[at : at + step])
    reader.finish()
    return reader.fields, b"".join(reader.take_file_bytes())


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50, 10_000])
def test_form_in_pieces(step: int) -> None:
    form = FORM.replace(b"--b", b"--frontier").replace(b"--frontier not", b"--b not")
    fields, content = read(form, step, boundary=b"frontier")
    assert fields == {"target": "audio", "limit": "5"}
    assert content == CONTENT


def part(disposition: str, content: bytes = b"x") -> bytes:
    return f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", MalformedBody, "ends before its closing boundary"),
        (part('form-data; name="file"'), MalformedBody, "ends before its closing boundary"),
        (b"--c--\r\n", MalformedBody, "not valid multipart"),
        (part("attachment") + b"--b--\r\n", MalformedBody, "has no name"),
        (part('form-data; name="a"') + b"--b--\r\n", MissingFile, "no part named 'file'"),
        (
            part('form-data; name="file"') * 2 + b"--b--\r\n",
            DuplicateField,
            "more than one part named 'file'",
        ),
        (part('form-data; name="a"') * 2 + b"--b--\r\n", DuplicateField, "'a' is given more than once"),
        (b"".join(part(f'form-data; name="{i}"') for i in range(17)), TooManyParts, "more than 16 parts"),
        (part('form-data; name="a"', b"x" * 20_000), TooManyParts, "longer than 16384 bytes"),
    ],
)
def test_forms_that_cannot_be_used(body: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(body, 100)


def test_boundary() -> None:
    assert read_boundary("multipart/form-data; boundary=abc") == b"abc"
    assert read_boundary('Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"
    for kind in ("", "text/plain", "multipart/mixed; boundary=x", "multipart/form-data-x; boundary=x"):
        with pytest.raises(NotMultipart, match="must be multipart/form-data"):
            read_boundary(kind)
    for kind in ("multipart/form-data", "multipart/form-data; boundary=" + "x" * 71):
        with pytest.raises(MalformedBody, match="1 to 70 characters"):
            read_boundary(kind)
