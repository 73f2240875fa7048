from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.corpus.labels import read_labels
from training.data.listing import BadListing, Item, find_media, list_items


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_gives_its_videos_to_the_bottom_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.mkv", "deep/er/c.webm", "notes.txt", "sound.wav"):
        write(tmp_path / name, "x")
    assert list_items([tmp_path]) == [
        Item(path=tmp_path / "a.mkv"),
        Item(path=tmp_path / "b.MP4"),
        Item(path=tmp_path / "deep" / "er" / "c.webm"),
    ]
    assert find_media([tmp_path / "sound.wav"]) == [tmp_path / "sound.wav"]


def test_a_csv_manifest_names_files_beside_it_and_their_labels(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "set.csv",
        '\ufeffid,path,labels\n1,clips/a.mp4,rain; wind\n\n2,"odd, name.mp4",\n3,/data/b.mp4,dog\n',
    )
    assert list_items([manifest]) == [
        Item(path=tmp_path / "clips" / "a.mp4", labels=("rain", "wind")),
        Item(path=tmp_path / "odd, name.mp4"),
        Item(path=Path("/data/b.mp4"), labels=("dog",)),
    ]
    assert list_items([write(tmp_path / "plain.csv", "path\na.mp4\n")]) == [Item(path=tmp_path / "a.mp4")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,rain\n", r"set\.csv must have a column `path`, got file, label"),
        ("", r"set\.csv must have a column `path`, got none"),
        ("path,labels\na.mp4,x\n,y\n", r"set\.csv, line 3: the path is empty"),
        (
            "path,labels\na.mp4,x\n\nb.mp4,y,z\n",
            r"set\.csv: line 4 has more cells than there are columns \(3, 2\)",
        ),
        ('path\n"a.mp4" b\n', r"set\.csv: line 2: "),
    ],
)
def test_a_malformed_csv_manifest_is_an_error_that_names_the_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(BadListing, match=message):
        list_items([write(tmp_path / "set.csv", text)])


def test_a_csv_manifest_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(b"path\n\xff\xfe.mp4\n")
    with pytest.raises(BadListing, match=r"set\.csv: line 2 is not UTF-8 text: save it"):
        list_items([tmp_path / "set.csv"])


@pytest.mark.parametrize("wrap", [lambda entries: entries, lambda entries: {"data": entries}])
def test_a_json_manifest_is_a_list_or_has_one(tmp_path: Path, wrap) -> None:
    entries = [
        {"path": "a.mp4", "labels": ["rain", "wind"], "split": "train"},
        {"path": "/data/b.mp4", "labels": "dog;cat"},
        {"path": "c.mp4"},
    ]
    assert list_items([write(tmp_path / "set.json", json.dumps(wrap(entries)))]) == [
        Item(path=tmp_path / "a.mp4", labels=("rain", "wind")),
        Item(path=Path("/data/b.mp4"), labels=("dog", "cat")),
        Item(path=tmp_path / "c.mp4"),
    ]


@pytest.mark.parametrize("num_frames", [10, 16])
def test_the_json_of_cav_mae_gives_sound_and_the_pictures_of_its_frame_folders(
    tmp_path: Path, num_frames: int
) -> None:
    for number in [*range(num_frames), num_frames + 1]:  # frame_17 follows on nothing
        (tmp_path / "frames" / f"frame_{number}").mkdir(parents=True)
    entry = {
        "video_id": "--4gqARaEJE",
        "wav": "/data/audio/--4gqARaEJE.wav",
        "video_path": str(tmp_path / "frames") + "/",
        "labels": "/m/068hy,/m/07q6cd_",
    }
    (item,) = list_items([write(tmp_path / "set.json", json.dumps({"data": [entry]}))])
    assert item.wav == Path("/data/audio/--4gqARaEJE.wav")
    assert item.labels == ("/m/068hy", "/m/07q6cd_")
    assert item.frames == tuple(
        tmp_path / "frames" / f"frame_{i}" / "--4gqARaEJE.jpg" for i in range(num_frames)
    )
    assert item.name == "/data/audio/--4gqARaEJE.wav"
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [', r"set\.json is not JSON: "),
        ('{"files": []}', r"set\.json must be a list of entries, or an object with one under data"),
        ('["a.mp4"]', r'set\.json, entry 1: an entry is an object, got "a\.mp4"'),
        ('[{"path": "a.mp4"}, {"path": 3}]', r"set\.json, entry 2: path must be text, got 3"),
        ('[{"file": "a.mp4"}]', r"entry 1: an entry needs path or wav, got only file"),
        ('[{"wav": "a.wav", "video_id": "a"}]', r"entry 1: video_path must be text, got null"),
        ('[{"path": "a.mp4", "labels": [1]}]', r"entry 1: labels must be text or a list of texts, got \[1\]"),
    ],
)
def test_a_malformed_json_manifest_is_an_error_that_names_the_entry(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(BadListing, match=message):
        list_items([write(tmp_path / "set.json", text)])


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadListing, match="nowhere does not exist"):
        list_items([tmp_path / "nowhere"])


def test_the_timbres_of_a_synthetic_corpus_are_its_labels(corpus: Path) -> None:
    rows = {row.file: row for row in read_labels(corpus / "labels.csv")}
    by_folder = {item.path: item.labels for item in list_items([corpus])}
    assert by_folder[corpus / "broken.mp4"] == ()
    with_sound = [file for file in rows if file.endswith(".mp4")]
    assert len(with_sound) > 3
    for file in with_sound:
        assert by_folder[corpus / file] == tuple(dict.fromkeys(s.timbre for s in rows[file].sources))
    by_file = list_items([corpus / "labels.csv"])
    assert [item.path for item in by_file] == [corpus / file for file in rows]


def test_labels_of_a_corpus_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "file,timbre_1\na.mp4,flute\n")
    with pytest.raises(BadListing, match="is not a label file of a synthetic corpus"):
        list_items([tmp_path])


def test_labels_of_somebody_else_in_a_folder_are_no_manifest(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "image,class\n1.png,dog\n")
    video = write(tmp_path / "a.mp4", "x")
    assert list_items([tmp_path]) == [Item(path=video)]


def test_an_item_is_one_file_or_two() -> None:
    with pytest.raises(ValueError, match="either a path or a wav"):
        Item()
