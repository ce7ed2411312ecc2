"""Checksums of a checkpoint's files, and the check of a folder of checkpoints against them.

Orbax stores arrays without checksums: after one flipped byte it restores other numbers and reports nothing.
"""

import hashlib
import itertools
from pathlib import Path

from pldmlt_jax.errors import CheckpointError, DataError, raise_all
from pldmlt_jax.io.files import read_json, sync_tree, write_json

MANIFEST = "manifest.json"
"""File in the folder of each checkpoint with the size and SHA-256 of the other files."""

_NOT_LISTED = (MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt")
"""Orbax writes the last two after the manifest. They hold times and paths, and restoring does not read them."""

DAMAGED = "damaged"
"""Folder beside the checkpoints that damaged ones are moved to when an earlier one is used instead."""


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


def check_for_damage(directory: Path, *, fallback: bool) -> None:
    """Checks the checkpoints of a folder for damage.

    Args:
        directory: The folder.
        fallback: Move damaged checkpoints to `damaged/` if an intact one is left.

    Raises:
        CheckpointError: Checkpoints are damaged, and `fallback` is not set or none is left. Nothing is changed then.
    """
    steps = sorted((path for path in directory.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    damaged = {path: found for path in steps if (found := find_damage(path))}
    intact = [path.name for path in steps if path not in damaged]
    if damaged and not (fallback and intact):
        action = f"or resume from step {intact[-1]}: --config.checkpoint.fallback=True" if intact else "or train again"
        errors = [
            CheckpointError(path, "; ".join(found), "the files as they were written", f"restore a copy, {action}")
            for path, found in damaged.items()
        ]
        raise_all(errors)
    for path, found in damaged.items():
        names = itertools.chain([path.name], (f"{path.name}_{n}" for n in itertools.count(2)))
        target = next(unused for name in names if not (unused := directory / DAMAGED / name).exists())
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        print(f"  damaged checkpoint moved to {target}: {'; '.join(found)}; the latest is now {intact[-1]}", flush=True)
