"""What is trained and tested on where files and columns are called otherwise, or some are missing."""

import json
import os
import subprocess
import sys

import pytest
from conftest import write_folder
from parquet_tables import table, write

from fastait.config import TrainConfig
from fastait.data import load_dataset
from fastait.data.__main__ import main
from fastait.runtime.errors import InputError


@pytest.fixture
def notes():
    return []


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_what_stands_in_for_test_in_a_folder(tmp_path, notes, name):
    root = write_folder(tmp_path / "set", {"a": 2, "b": 3}, {"b": 1})
    (root / "test").rename(root / name)
    data = load_dataset("folder", root, 8, note=notes.append)
    assert data.test.labels.tolist() == [1]
    assert notes == [f"{root} has no folder test, so the test images are those of {name}"]
    write_folder(tmp_path / "more", {"a": 1}, {"a": 2})
    (tmp_path / "more" / "test").rename(root / "test")
    assert load_dataset("folder", root, 8, note=notes.append).test.labels.tolist() == [0, 0]
    assert len(notes) == 1


@pytest.mark.parametrize("name", ["val", "valid-v2", "validation-00000-of-00001"])
def test_what_stands_in_for_test_in_parquet(tmp_path, notes, name):
    root = write(tmp_path / "set", [table([0, 1])], [table([1])])
    (root / "test.parquet").rename(root / f"{name}.parquet")
    write(tmp_path / "more", [table([0])], [])
    (tmp_path / "more" / "train.parquet").rename(root / "values.parquet")
    data = load_dataset("parquet", root, 8, note=notes.append)
    assert data.test.labels.tolist() == [1]
    assert notes == [f"{root} holds no test*.parquet, so the test images are those of {name}.parquet"]


def test_columns_and_patterns(tmp_path, notes):
    root = write(tmp_path / "set", [table([0, 1, 1], "picture", "kind", names=["x", "y"])], [])
    write(root / "sub", [table([1], "picture", "kind", first=3, names=["x", "y"])], [])
    (root / "sub" / "train.parquet").rename(root / "sub" / "held-out.parquet")
    options = {"image_column": "picture", "label_column": "kind", "test_files": "held*"}
    data = load_dataset("parquet", root, 8, note=notes.append, **options)
    assert data.classes == ("x", "y")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.test.labels.tolist() == [1]
    other = load_dataset("parquet", root, 8, **{**options, "test_files": "sub/*.parquet"})
    assert other.checksum == data.checksum
    other = load_dataset("parquet", root, 8, note=notes.append, **{**options, "label_column": "other"})
    assert other.train.labels.tolist() == [0, 1, 2]
    assert other.classes == ("0", "1", "2")
    assert notes == []
    data = load_dataset("parquet", root, 8, note=notes.append, **{**options, "test_files": "train.parquet"})
    assert len(data.test) == 3
    assert notes == ["warning: training images are tested on: train.parquet"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "what"}, "needed are what and label or fine_label"),
        ({"label_column": "what"}, "needed are img or image and what"),
        ({"label_column": "img"}, "column img must hold integers"),
        ({"image_column": "label"}, "column label must hold encoded images"),
        ({"train_files": "what*"}, r"set holds no what\*, nor does a folder below it"),
        ({"test_files": "what*"}, r"set holds no what\*, nor does a folder below it"),
        ({"test_files": ""}, "--test-files : not a pattern of files below --data-dir"),
        ({"train_files": "/data/*.parquet"}, "--train-files /data/.*: not a pattern of files below --data-dir"),
    ],
)
def test_columns_and_patterns_that_do_not_fit(tmp_path, options, message):
    root = write(tmp_path / "set", [table([0, 1])], [table([1])])
    with pytest.raises(InputError, match=message):
        load_dataset("parquet", root, 8, **options)


@pytest.mark.parametrize("name", ["image_column", "label_column", "train_files", "test_files"])
def test_they_are_for_parquet(name, tmp_path):
    message = f"--{name.replace('_', '-')} x is for --dataset parquet, not for digits"
    with pytest.raises(InputError, match=message):
        TrainConfig(**{name: "x"}).check()
    with pytest.raises(InputError, match=message):
        load_dataset("digits", image_size=8, **{name: "x"})


def test_a_run_keeps_them(tmp_path):
    config = TrainConfig(
        dataset="parquet", data_dir=tmp_path, image_column="a", test_files="b*", cache_dir=tmp_path / "cache"
    )
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("test", ["test", "val"])
def test_test_images_alone(tmp_path, notes, test):
    root = write_folder(tmp_path / "set", {}, {"b": 2, "a": 1})
    (root / "test").rename(root / test)
    with pytest.raises(InputError, match="train: no such folder"):
        load_dataset("folder", root, 8)
    data = load_dataset("folder", root, 8, needs_train=False, note=notes.append)
    assert data.classes == ("a", "b")
    assert data.test.labels.tolist() == [0, 1, 1]
    assert len(data.train) == 0
    assert len(notes) == (test == "val")
    write_folder(tmp_path / "more", {"a": 1, "ab": 1, "b": 1}, {})
    (tmp_path / "more" / "train").rename(root / "train")
    data = load_dataset("folder", root, 8, needs_train=False)
    assert data.classes == ("a", "ab", "b")
    assert data.test.labels.tolist() == [0, 2, 2]


def test_test_files_alone(tmp_path):
    root = write(tmp_path / "set", [], [table([1, 0, 2])])
    with pytest.raises(InputError, match=r"holds no train\*\.parquet"):
        load_dataset("parquet", root, 8)
    data = load_dataset("parquet", root, 8, needs_train=False)
    assert data.classes == ("0", "1", "2")
    assert data.test.labels.tolist() == [1, 0, 2]
    write(root, [], [table([1], names=["x", "y"])])
    assert load_dataset("parquet", root, 8, needs_train=False).classes == ("x", "y")


def test_the_command(tmp_path, capsys):
    root = write(tmp_path / "set", [table([0, 1, 1], "picture", "kind")], [])
    (root / "train.parquet").rename(root / "learn.parquet")
    write(root, [], [table([1], "picture", "kind")])
    (root / "test.parquet").rename(root / "check.parquet")
    argv = [
        "parquet",
        "--data-dir",
        str(root),
        "--image-size",
        "8",
        "--image-column",
        "picture",
        "--label-column",
        "kind",
    ]
    argv += ["--train-files", "learn*", "--test-files", "check*", "--cache-dir", "cache"]
    assert main(argv) == 0
    assert "4" in capsys.readouterr().out
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert not (root / ".fastait-cache").exists()
    assert main(["digits", "--train-files", "x"]) == 2
    assert "--train-files x is for --dataset parquet, not for digits" in capsys.readouterr().err


def test_class_names_do_not_depend_on_the_locale(tmp_path):
    """Nor do paths that were written down in another one."""
    root = write_folder(tmp_path / "s\u00e9t", {"d\u00e9": 1, "\N{CAT} cat": 1, "zebra": 1})
    code = (
        "import os, sys, json; from fastait import TrainConfig; from fastait.data import load_dataset\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "config = TrainConfig.from_json(json.loads(sys.stdin.read()))\n"
        "data = load_dataset('folder', config.data_dir, 8)\n"
        "print(json.dumps([data.checksum, data.classes]))"
    )
    config = json.dumps(TrainConfig(dataset="folder", data_dir=root).to_json())
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, input=config, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = load_dataset("folder", root, 8)
    assert json.loads(done.stdout) == [data.checksum, list(data.classes)]
    assert data.classes == ("d\u00e9", "zebra", "\N{CAT} cat")
