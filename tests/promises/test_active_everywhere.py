"""Commands that open the index themselves take that of the release that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.bundle.bundle import starter_path
from service.commands.inventory import list_inventory, open_inventory
from service.index.opening import index_place
from service.operations.doctor import examine
from service.releases.opening import active_release, warn_of_other_indexes, warn_of_unused_bundle
from service.releases.store import ReleaseNotFound, ReleaseStore
from service.system.settings import Settings
from tests.support.bundles import copy_starter
from tests.support.swapping import TwoReleases


@pytest.fixture
def settings(two_releases: TwoReleases) -> Settings:
    """The second release answers, and lacks an asset that the first one has."""
    settings, (first, second) = two_releases.settings, two_releases.names
    store = ReleaseStore(settings.release_folder)
    store.activate(second, previous=first)
    index = index_place(settings).find(store.load_bundle(second), release_id=second)
    assert index is not None
    index.delete_asset(index.list_assets(limit=1).assets[0].asset_id)
    index.close()
    return settings


def test_assets_are_those_of_the_release_that_answers(settings: Settings, two_releases: TwoReleases) -> None:
    store = ReleaseStore(settings.release_folder)
    counts = {}
    for release_id in two_releases.names:
        index = index_place(settings).find(store.load_bundle(release_id), release_id=release_id)
        assert index is not None
        counts[release_id] = index.info().num_assets
        index.close()
    first, second = two_releases.names
    listed = list_inventory(settings)
    assert len(listed) == counts[second] == counts[first] - 1
    with open_inventory(settings) as inventory:
        assert inventory.delete_asset(listed[0]["asset_id"])
    assert len(list_inventory(settings)) == counts[second] - 1


def test_the_doctor_examines_the_release_that_answers(
    settings: Settings, two_releases: TwoReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.operations.stopwatch.ROUNDS", 1)
    found = examine(settings).to_json()
    assert found["bundle"]["release_id"] == two_releases.names[1]
    assert found["bundle"]["bundle_id"] == two_releases.bundle_ids[1]
    assert found["index"]["path"].endswith(two_releases.names[1])
    assert "num_files_read" not in found["index"]


def test_a_release_that_is_not_here_is_an_error_and_no_other_answers(
    settings: Settings, two_releases: TwoReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = two_releases.names[1]
    folder = settings.release_folder / second
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ReleaseNotFound, match=rf"{second} is active, but not in .*FOLEY_RELEASES"):
        list_inventory(settings)
    monkeypatch.setattr("service.operations.stopwatch.ROUNDS", 1)
    found = examine(settings).to_json()
    assert "the active release is not known" in found["problems"][0]
    assert found["bundle"]["bundle_id"] == two_releases.bundle_ids[0]
    assert found["encoder"]["golden_difference"] < 1e-4


def test_a_bundle_that_does_not_answer_is_told(
    settings: Settings, two_releases: TwoReleases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A release is active: FOLEY_BUNDLE, which is for the time before the first, would be ignored in silence."""
    active = two_releases.names[1]
    for bundle in (
        starter_path(),
        *(settings.release_folder / name / "bundle" for name in two_releases.names),
    ):
        warn_of_unused_bundle(settings.replace(bundle=bundle), active)
    assert caplog.messages == []
    other = copy_starter(tmp_path / "other", name="other")
    warn_of_unused_bundle(settings.replace(bundle=other), active)
    warn_of_unused_bundle(settings.replace(bundle=tmp_path / "gone"), active)
    told, gone = caplog.messages
    assert told.startswith(
        f"release {active} is active, not FOLEY_BUNDLE: `foley releases create {other} --activate`"
    )
    assert "FOLEY_BUNDLE is not a bundle" in gone


def test_a_library_of_another_bundle_does_not_look_empty_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an upgrade that ships another starter."""
    settings = Settings(data=tmp_path)
    release_id, _ = active_release(settings)
    warn_of_other_indexes(settings, release_id)
    assert caplog.messages == [], "nothing is indexed yet"
    (tmp_path / "index" / "starter-of-before").mkdir(parents=True)
    assert list_inventory(settings) == []
    (told,) = caplog.messages
    assert f"it was indexed with starter-of-before, and FOLEY_BUNDLE is {release_id}" in told
