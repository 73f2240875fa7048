"""A multipart form, parsed as it arrives: one part named `file`, which may be large, and short text fields.

The client's name for the file is not even read.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.system.failure import Failure

FILE_FIELD = "file"
MAX_PARTS = 16
MAX_FIELD_BYTES = 4096


class InvalidForm(Failure):
    """The body of a request is not a form that can be used. Subclasses say why."""

    code = "malformed_body"


class NotMultipart(InvalidForm):
    """The body is not declared as multipart/form-data."""

    code = "unsupported_content_type"


class MalformedBody(InvalidForm):
    """The body is not the multipart/form-data it is declared as."""

    code = "malformed_body"


class TooManyParts(InvalidForm):
    """The form has more parts, or a longer field, than any call needs."""

    code = "too_many_fields"


class MissingFile(InvalidForm):
    """The form has no part named `file`."""

    code = "missing_file"


class DuplicateField(InvalidForm):
    """The form names a field twice."""

    code = "invalid_parameter"


def read_boundary(content_type: str) -> bytes:
    """The boundary between parts, from a Content-Type header.

    Args:
        content_type: The header's value.

    Returns:
        The boundary, 1 to 70 bytes.

    Raises:
        NotMultipart: If the type is another one.
        MalformedBody: If the boundary is missing or too long.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise NotMultipart(f"the body must be multipart/form-data, got {content_type[:80]!r}")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise MalformedBody(f"the multipart boundary must have 1 to 70 characters, got {len(boundary)}")
    return bytes(boundary)


class FormReader:
    """Takes a multipart body in pieces; keeps the fields and hands the file's bytes on.

    Args:
        boundary: What stands between the parts.

    Attributes:
        fields: Text fields that are complete so far, by name.
        num_pending_bytes: File bytes that wait for `take_file_bytes`.
    """

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.num_pending_bytes = 0
        self._pending: list[bytes] = []
        self._has_file = False
        self._num_parts = 0
        self._is_finished = False
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._start_content,
                "on_part_data": self._add_content,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parse the next piece.

        Args:
            data: Bytes as they came.

        Raises:
            InvalidForm: If they are not part of a usable form.
        """  # noqa: DOC503 - the callbacks raise the other kinds
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise MalformedBody(f"the body is not valid multipart/form-data: {exc}") from exc

    def finish(self) -> None:
        """Check that the form is whole.

        Raises:
            MalformedBody: If the body ended inside it.
            MissingFile: If it has no file.
        """
        if not self._is_finished:
            raise MalformedBody("the multipart body ends before its closing boundary")
        if not self._has_file:
            raise MissingFile(f"the form has no part named {FILE_FIELD!r}")

    def take_file_bytes(self) -> list[bytes]:
        """File bytes received since the last call."""
        taken, self._pending, self.num_pending_bytes = self._pending, [], 0
        return taken

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise TooManyParts(f"the form has more than {MAX_PARTS} parts")
        self._disposition, self._name, self._value = b"", "", b""
        self._header_name, self._header_value = b"", b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def _start_content(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or not options.get(b"name"):
            raise MalformedBody("a part of the form has no name in its Content-Disposition header")
        self._name = options[b"name"].decode("utf-8", "replace")
        if self._name == FILE_FIELD:
            if self._has_file:
                raise DuplicateField(f"the form has more than one part named {FILE_FIELD!r}")
            self._has_file = True
        elif self._name in self.fields:
            raise DuplicateField(f"{self._name[:80]!r} is given more than once")

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self._pending.append(data[start:end])
            self.num_pending_bytes += end - start
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise TooManyParts(f"{self._name[:80]!r} is longer than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name != FILE_FIELD:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._is_finished = True
