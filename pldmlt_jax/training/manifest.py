"""Checksums of a checkpoint's files.

Orbax stores arrays without checksums: after one flipped byte it restores other numbers and reports nothing.
"""

import hashlib
from pathlib import Path

from pldmlt_jax.errors import DataError
from pldmlt_jax.io.files import read_json, sync_tree, write_json

MANIFEST = "manifest.json"
"""File in the folder of each checkpoint with the size and SHA-256 of the other files."""

_NOT_LISTED = (MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt")
"""Orbax writes the last two after the manifest. They hold times and paths, and restoring does not read them."""


def write_manifest(folder: Path) -> None:
    """Flushes all files of a checkpoint to disk and writes their checksums beside them."""
    sync_tree(folder)
    write_json(folder / MANIFEST, {"version": 1, "files": _compute_checksums(folder)})


def _compute_checksums(folder: Path) -> dict[str, list]:
    """Returns the size in bytes and the SHA-256 of each file, by its path inside the folder."""
    checksums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _NOT_LISTED:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            checksums[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return checksums


def find_damage(folder: Path) -> list[str]:
    """Compares the files of a checkpoint with its manifest.

    Args:
        folder: The folder of one checkpoint.

    Returns:
        One text for each file that is missing or has changed. The list is empty for an intact checkpoint, and for one of an
        older version of this program that has no manifest and cannot be checked.
    """
    if not (folder / MANIFEST).exists():
        return []
    try:
        written, found = read_json(folder / MANIFEST)["files"], _compute_checksums(folder)
        missing = [f"{name} is missing" for name in written if name not in found]
        return missing + [f"{name} has changed" for name in written if name in found and found[name] != written[name]]
    except OSError as error:
        return [f"{Path(error.filename or folder).name}: {error.strerror}"]
    except (DataError, KeyError, TypeError) as error:
        return [f"{MANIFEST} is damaged: {error.found if isinstance(error, DataError) else error}"]
