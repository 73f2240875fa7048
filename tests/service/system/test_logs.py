"""The log: every line one JSON object (or text at a terminal), whoever wrote it, and nothing in it that is secret."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.system.logs import child_options, configure_child_logs, configure_logs
from service.system.settings import Settings
from tests.support.serving import run_server

logger = logging.getLogger("service.some.module")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The logging of the test runner, as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)


def read_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object_with_its_fields() -> None:
    stream = io.StringIO()
    configure_logs("auto", stream=stream)
    logger.info("request", extra={"status": 200, "duration_seconds": 0.034210872000001})
    (line,) = read_lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "service.some.module",
        "status": 200,
        "duration_seconds": 0.034211,
    }


def test_lines_of_others_go_the_same_way() -> None:
    stream = io.StringIO()
    configure_logs("json", stream=stream)
    logging.getLogger("uvicorn.error").info("Started [%d]", 7, extra={"color_message": "\033[1mStarted"})
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    started, warned = read_lines(stream)
    assert started["event"] == "Started [7]"
    assert "color_message" not in started
    assert (warned["level"], warned["logger"]) == ("warning", "py.warnings")
    assert "old thing" in warned["event"]


def test_what_a_client_sends_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    configure_logs("json", stream=stream)
    logger.warning("odd name %s", 'x\n{"event":"forged"}\r\n')
    (line,) = read_lines(stream)
    assert line["event"].startswith("odd name x\n")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_values(log_format: Any) -> None:
    stream = io.StringIO()
    configure_logs(log_format, stream=stream)
    secret = "".join(["hunter", "2"])
    try:
        raise ValueError("it broke")
    except ValueError:
        logger.exception("failed")
    assert "ValueError: it broke" in stream.getvalue()
    assert secret not in stream.getvalue()


def test_a_terminal_gets_text() -> None:
    stream = Terminal()
    configure_logs("auto", stream=stream)
    logger.info("request", extra={"status": 200})
    assert "request" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())


def test_less_important_lines_are_left_out() -> None:
    stream = io.StringIO()
    configure_logs("json", level="warning", stream=stream)
    logger.info("request")
    logger.warning("careful")
    assert [line["event"] for line in read_lines(stream)] == ["careful"]


def test_child_processes_write_as_their_parent_does(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", level="warning", stream=io.StringIO())
    assert child_options() == ["json", "warning"]
    configure_child_logs(child_options())  # as the index's engine does with its arguments
    logger.info("opened")
    logger.warning("an asset was left unfinished")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "an asset was left unfinished"


def test_one_line_a_request(indexed_settings: Settings, library_files: Path, tmp_path: Path) -> None:
    settings = {"DATA": tmp_path, "BUNDLE": indexed_settings.bundle, "DEVICE": "cpu", "MIN_FREE_BYTES": 0}
    content = min(library_files.glob("0*.mp4")).read_bytes()
    with (
        run_server(settings, tmp_path / "log") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        headers = {"X-Request-ID": "find-me", "Authorization": "Bearer hunter2"}
        form = {"file": ("private-name.mp4", content)}
        assert (
            client.post("/v1/search", files=form, data={"target": "audio"}, headers=headers).status_code
            == 200
        )
        assert client.get(f"/v1/assets/{'a' * 64}", headers={"X-Request-ID": "no-such"}).status_code == 404
        client.get("/secret/path?key=hunter2")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    requests = {line["request_id"]: line for line in lines if line["event"] == "request"}
    search = requests["find-me"]
    assert (search["method"], search["route"], search["status"]) == ("POST", "/v1/search", 200)
    assert search["received_bytes"] > len(content)
    assert 0 < search["decode_seconds"] + search["encode_seconds"] < search["duration_seconds"]
    missing = requests["no-such"]
    assert (missing["route"], missing["status"], missing["code"]) == (
        "/v1/assets/{asset_id}",
        404,
        "asset_not_found",
    )
    assert [line["status"] for line in requests.values() if line["route"] == "unknown"] == [404]
    text = (tmp_path / "log").read_text()
    for private in ("hunter2", "private-name", "/secret", "a" * 64):
        assert private not in text
