"""Settings: read from the environment, checked once, safe where nobody set them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.bundle.bundle import starter_path
from service.system.settings import Settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FOLEY_{name.upper()}", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)


def test_defaults() -> None:
    settings = Settings()
    assert settings.data == Path("~/.local/share/foley").expanduser()
    assert settings.bundle == starter_path()
    assert settings.host == "127.0.0.1"
    assert settings.max_upload_bytes == 256 * 1024**2
    assert settings.max_query_seconds == 600
    assert (settings.default_limit, settings.max_limit, settings.prefetch) == (10, 1000, None)


def test_every_field_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(("xdg", "expected"), [("/x/y", "/x/y/foley"), ("not/absolute", None), ("", None)])
def test_data_folder_of_the_desktop(monkeypatch: pytest.MonkeyPatch, xdg: str, expected: str | None) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", xdg)
    assert Settings().data == Path(expected or "~/.local/share/foley").expanduser()


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLEY_DATA", "~/sounds")
    monkeypatch.setenv("FOLEY_PORT", "9000")
    monkeypatch.setenv("FOLEY_DEVICE", "cpu")
    settings = Settings()
    assert settings.data == Path.home() / "sounds"
    assert (settings.port, settings.device) == (9000, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 70_000}, "less than or equal to 65535"),
        ({"device": "tpu"}, "'auto', 'cuda' or 'cpu'"),
        ({"max_upload_bytes": 0}, "greater than 0"),
        ({"max_limit": 1001}, "less than or equal to 1000"),
        ({"default_limit": 20, "max_limit": 10}, "default_limit 20 is above max_limit 10"),
        ({"dta": "/x"}, "Extra inputs"),
        ({"qdrant_url": "qdrant:6333"}, "must begin with http"),
        ({"qdrant_url": "http://q:99999"}, "Port out of range"),
        ({"qdrant_url": "https://u:p@q"}, "must hold no key"),
        ({"qdrant_prefix": "a/b"}, "should match pattern"),
    ],
)
def test_what_makes_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings().replace(**changes)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine(host: str) -> None:
    assert Settings().replace(host=host).host == host


@pytest.mark.parametrize(
    ("changes", "needs_keys"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "example.org"}, True),
        ({"host": "0.0.0.0", "allow_remote": True}, False),
        ({"host": "0.0.0.0", "allow_remote": True, "api_keys_file": "/k"}, True),
        ({"api_keys_file": "/k"}, True),
    ],
)
def test_who_needs_a_key(changes: dict[str, object], needs_keys: bool) -> None:
    assert Settings().replace(**changes).needs_keys == needs_keys


def test_hosts_and_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLEY_ALLOWED_HOSTS", "Media.example, b.example,")
    monkeypatch.setenv("FOLEY_API_KEY", "hunter2")
    settings = Settings()
    assert settings.allowed_hosts == ("media.example", "b.example")
    assert settings.client_headers() == {"Authorization": "Bearer hunter2"}
    assert "hunter2" not in repr(settings)
    assert settings.replace(port=1).allowed_hosts == settings.allowed_hosts
    assert settings.keys_path == settings.data / "api-keys.json"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_the_key_of_the_index_server_is_never_shown() -> None:
    settings = Settings(qdrant_url="https://q:6333", qdrant_api_key="secret-of-the-server")  # type: ignore[arg-type]
    assert "secret-of-the-server" not in repr(settings) + str(settings.model_dump(mode="json"))
    copy = settings.replace(port=1)
    assert copy.qdrant_api_key is not None
    assert copy.qdrant_api_key.get_secret_value() == "secret-of-the-server"
