"""Hashes of contents: read once, and again when anything about the file has changed."""

import hashlib
import os
from pathlib import Path

import pytest

from pldmlt_jax.data.preprocessing import hash_cache
from pldmlt_jax.data.preprocessing.hash_cache import ABSENT, hash_files


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    os.utime(path, (1e9, 1e9))
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_count(monkeypatch) -> list[int]:
    count, digest = [0], hashlib.file_digest

    def counted(*arguments):
        count[0] += 1
        return digest(*arguments)

    monkeypatch.setattr(hash_cache.hashlib, "file_digest", counted)
    monkeypatch.setattr(hash_cache, "MIN_AGE_NS", 0)
    return count


def test_a_file_is_read_once(file, tmp_path, monkeypatch):
    count = read_count(monkeypatch)
    for _ in range(3):
        assert hash_files([file, file], tmp_path / "cache") == {file: sha(b"one")}
    assert count == [1]


def test_content_of_the_same_size_and_time_is_noticed(file, tmp_path, monkeypatch):
    count = read_count(monkeypatch)
    hash_files([file], tmp_path / "cache")
    file.write_bytes(b"two")
    os.utime(file, (1e9, 1e9))  # as `cp -p` and `rsync -t` do
    assert hash_files([file], tmp_path / "cache") == {file: sha(b"two")}
    assert count == [2]


def test_a_file_that_was_just_written_is_not_remembered(file, tmp_path):
    hash_files([file], tmp_path / "cache")
    assert not (tmp_path / "cache" / hash_cache.HASHES).exists()


def test_absent_files_and_a_damaged_table(file, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / hash_cache.HASHES).write_text("{half")
    missing = tmp_path / "none.jpg"
    assert hash_files([file, missing, tmp_path], tmp_path / "cache") == {
        file: sha(b"one"), missing: ABSENT, tmp_path: ABSENT,
    }  # fmt: skip
