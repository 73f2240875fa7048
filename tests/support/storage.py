"""A storage of objects for tests: moto's server of S3 on loopback, whose answers can be cut, refused or held up."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

KEY, SECRET = "AKIATESTTESTTESTTEST", "a-secret-that-nobody-may-read-0123456789"
BUCKET = "archive"


class Storage:
    """The server; make one with `serve_storage`.

    Attributes:
        read: Keys of the objects that were read, as often as they were.
        cuts: How many of the next answers with an object's content end in the middle.
        is_away: Set it, and every request is answered with 503.
        before_read: Called with the key before an object is read.
    """

    def __init__(self) -> None:
        # Only tests of storages wait for these.
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: object) -> None:
                pass

        self._moto = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.read: list[str] = []
        self.cuts = 0
        self.is_away = False
        self.before_read: Callable[[str], object] = lambda _: None

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        _, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        is_read = environ["REQUEST_METHOD"] == "GET" and bool(key)
        if self.is_away:
            start("503 Service Unavailable", [("Content-Length", "0")])
            return []
        if is_read:
            self.read.append(key)
            self.before_read(key)
        answer = self._moto(environ, start)
        if is_read and self.cuts:
            self.cuts -= 1
            return _cut(b"".join(answer))
        return answer

    def put(self, key: str, content: bytes, **more: Any) -> None:
        """Store an object, past what the test has the server do."""
        self._backend().put_object(BUCKET, key, content, **more)

    def touch(self, key: str) -> None:
        """Store an object again: with its content and ETag, and another time."""
        self._backend().get_object(BUCKET, key).last_modified = _later()

    def delete(self, key: str) -> None:
        """Delete an object."""
        self._backend().delete_object(BUCKET, key)

    def create(self) -> None:
        """Make the bucket anew, empty."""
        import moto.s3.models

        moto.s3.models.s3_backends.reset()
        self._backend().create_bucket(BUCKET, "us-east-1")

    @staticmethod
    def _backend() -> Any:
        import moto.s3.models

        return moto.s3.models.s3_backends["123456789012"]["aws"]


def _later() -> Any:
    import datetime

    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(hours=1)


def _cut(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    raise ConnectionResetError("the test cuts the connection")


def serve_storage() -> Iterator[Storage]:
    """Run the server, and let clients of S3 in this process find it with credentials, until the generator ends."""
    pytest.importorskip("s3fs", reason="needs the extra `storage`")
    pytest.importorskip("moto", reason="needs moto, of the extra `dev`")
    storage = Storage()
    thread = threading.Thread(target=storage.server.serve_forever, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", storage.address)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        thread.start()
        storage.create()
        yield storage
    storage.server.shutdown()
    thread.join()
    storage.server.server_close()


def tone(number: int, *, seconds: float = 1.0) -> bytes:
    """A WAV file that no other number has."""
    import wave

    import numpy as np

    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        count = round(16_000 * seconds)
        file.setparams((1, 2, 16_000, count, "NONE", ""))
        file.writeframes((3000 * np.sin(np.arange(count) * (0.02 + 1e-4 * number))).astype("<i2").tobytes())
    return content.getvalue()
