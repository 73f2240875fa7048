"""Files that make FFmpeg open others or the network, and the canaries that notice it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import av
import av.error

from tests.support.hostile.boxes import DATA_OFFSET, Track, full, mp4
from tests.support.hostile.sources import good, jpeg

IN_ACCESS, IN_OPEN, IN_NONBLOCK = 0x1, 0x20, 0o4000
HLS = b"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:10\n"
END = b"\n#EXT-X-ENDLIST\n"
CANARIES = ("canary.ts", "canary.key", "canary.sub", "canary.mp4")


@dataclass
class Canaries:
    """Files that notice being opened (inotify) and a port that notices connections; UDP is noticed too."""

    folder: Path
    events: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(IN_NONBLOCK)
        self._names: dict[int, str] = {}
        for name in CANARIES:
            path = self.folder / name
            path.write_bytes(
                bytes(16) if name.endswith("key") else good("mp4" if name.endswith("mp4") else "ts")
            )
            watch = libc.inotify_add_watch(self._inotify, os.fsencode(path), IN_OPEN | IN_ACCESS)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self._names[watch] = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", 0))
        self._datagrams.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self.udp_port = self._datagrams.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self._datagrams.close()
        os.close(self._inotify)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.events.append("tcp")
            with connection, contextlib.suppress(OSError):
                connection.settimeout(0.2)
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")

    def take(self) -> set[str]:
        """What was opened or connected to since the last time."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._inotify, 65_536):
                while data:
                    watch, _, _, length = struct.unpack_from("iIII", data)
                    self.events.append(self._names[watch])
                    data = data[16 + length :]
        with contextlib.suppress(BlockingIOError):
            while self._datagrams.recv(65_536):
                self.events.append("udp")
        events, self.events = set(self.events), []
        return events


def _playlist(uri: bytes) -> bytes:
    return HLS + b"#EXTINF:2,\n" + uri + END


def _path(canaries: Canaries, name: str = "canary.ts") -> bytes:
    return os.fsencode(canaries.folder / name)


def _http(canaries: Canaries, name: str = "a.ts") -> bytes:
    return f"http://127.0.0.1:{canaries.port}/{name}".encode()


def _key(uri: bytes) -> bytes:
    return HLS + b'#EXT-X-KEY:METHOD=AES-128,URI="' + uri + b'"\n#EXTINF:2,\nx.ts' + END


def _map(uri: bytes) -> bytes:
    return HLS + b'#EXT-X-MAP:URI="' + uri + b'"\n#EXTINF:2,\n' + uri + END


def _sdp(canaries: Canaries) -> bytes:
    media = f"m=video {canaries.udp_port} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    return b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n" + media.encode()


def _dash(canaries: Canaries) -> bytes:
    return (
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        b'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        b'bandwidth="1"><BaseURL>' + _http(canaries, "a.mp4") + b"</BaseURL></Representation></AdaptationSet>"
        b"</Period></MPD>"
    )


def _vobsub(canaries: Canaries) -> bytes:
    return b"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n" + (
        b"timestamp: 00:00:01:000, filepos: 000000000\n"
    )


def _reference(canaries: Canaries) -> bytes:
    """An MP4 whose samples lie in another file, named as a Mac alias names it."""
    path = _path(canaries, "canary.mp4")
    record = struct.pack(">HH", 2, len(path)) + path + bytes(len(path) & 1) + struct.pack(">hH", -1, 0)
    reference = full(b"alis", bytes(6) + struct.pack(">H", 150), bytes(142), record)
    track = Track(reference=reference, sample_bytes=len(jpeg()), offset=DATA_OFFSET)
    return mp4(track, data=jpeg())


@dataclass(frozen=True, kw_only=True)
class Escape:
    """A file that refers to a canary.

    Attributes:
        content: Makes it.
        reaches: The canary that FFmpeg goes to when it is given the name of the file and nothing keeps it; None where
            it knows better by now.
        file_name: Its name.
        demuxer: What to tell FFmpeg that it is, where it is given no name.
        leaks: Whether FFmpeg goes there without a name, too.
        outcome: What becomes of it here.
    """

    content: Callable[[Canaries], bytes]
    reaches: str | None
    file_name: str = "list.m3u8"
    demuxer: str | None = "hls"
    leaks: bool = False
    outcome: str = "not_media"


def _concat(make: Callable[[Canaries], bytes], reaches: str, *, leaks: bool = False) -> Escape:
    def content(canaries: Canaries) -> bytes:
        return b"ffconcat version 1.0\nfile '" + make(canaries) + b"'\n"

    return Escape(content=content, reaches=reaches, file_name="a.ffconcat", demuxer=None, leaks=leaks)


def _named(path: bytes, prefix: bytes) -> bytes:
    return _playlist(prefix + path)


ESCAPES: dict[str, Escape] = {
    "hls, absolute": Escape(content=lambda c: _playlist(_path(c)), reaches="canary.ts"),
    "hls, file": Escape(content=lambda c: _named(_path(c), b"file://"), reaches="canary.ts", leaks=True),
    "hls, parent": Escape(
        content=lambda c: _named(b"/canary.ts", b"../" + os.fsencode(c.folder.name)), reaches="canary.ts"
    ),
    "hls, http": Escape(content=lambda c: _playlist(_http(c)), reaches="tcp", leaks=True),
    "hls, key": Escape(content=lambda c: _key(_path(c, "canary.key")), reaches="canary.key"),
    "hls, key by http": Escape(content=lambda c: _key(_http(c)), reaches="tcp", leaks=True),
    "hls, map": Escape(content=lambda c: _map(_path(c)), reaches="canary.ts"),
    "hls, subfile": Escape(content=lambda c: _named(_path(c), b"subfile,,start,0,end,9,,:"), reaches=None),
    "hls, concat": Escape(content=lambda c: _named(_path(c), b"concat:"), reaches=None),
    "hls, crypto": Escape(content=lambda c: _named(_path(c), b"crypto+file:"), reaches=None),
    "hls named mp4": Escape(content=lambda c: _playlist(_path(c)), reaches=None, file_name="a.mp4"),
    "ffconcat, absolute": _concat(_path, "canary.ts"),
    "ffconcat, relative": _concat(lambda c: b"canary.ts", "canary.ts"),
    "ffconcat, file": _concat(lambda c: b"file://" + _path(c), "canary.ts", leaks=True),
    "ffconcat, http": _concat(_http, "tcp", leaks=True),
    "sdp": Escape(content=_sdp, reaches=None, file_name="a.sdp", demuxer="sdp"),
    "dash": Escape(content=_dash, reaches=None, file_name="a.mpd", demuxer=None),
    "vobsub": Escape(content=_vobsub, reaches="canary.sub", file_name="canary.idx", demuxer="vobsub"),
    "mp4 data reference": Escape(
        content=_reference,
        reaches="canary.mp4",
        file_name="a.mp4",
        demuxer=None,
        leaks=True,
        outcome="broken_media",
    ),
}

EVERYTHING = {
    "allowed_extensions": "ALL",
    "extension_picky": "0",
    "safe": "0",
    "enable_drefs": "1",
    "use_absolute_path": "1",
}


def decode_without_allow_list(source: int | str, demuxer: str | None = None) -> int:
    """Open a file as FFmpeg likes it and read a little; the number of packets. Runs in a worker, too."""
    options = {
        **EVERYTHING,
        "protocol_whitelist": "fd,file,http,tcp,crypto,data,subfile,concat,concatf,rtp,udp",
    }
    name = source
    if isinstance(source, int):
        os.lseek(source, 0, os.SEEK_SET)
        name, options["fd"] = "fd:", str(source)
    num_packets = 0
    with (
        contextlib.suppress(av.error.FFmpegError, OSError, ValueError, RuntimeError),
        av.open(name, format=demuxer, options=options, timeout=5.0) as container,
    ):
        for packet in container.demux():
            num_packets += 1
            if num_packets > 3 or packet.size == 0:
                break
    return num_packets
