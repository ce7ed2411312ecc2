"""Caches the hashes of raw files beside the prepared sets, so that a large set is read once, not at every start."""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pldmlt_jax.io.files import write_json

HASHES = "contents.json"

MIN_AGE_NS = 3_000_000_000
"""A file that changed less than this before it was read could change again within the same tick of the file system's clock,
so its hash is not kept."""

ABSENT = "absent"


def hash_files(paths: Iterable[Path], cache_dir: str | Path, num_threads: int = 4) -> dict[Path, str]:
    """Returns the SHA-256 of each file, or `ABSENT` if there is no such file.

    A file is read again if its size, its time of change or its inode differ from when it was last read.

    Args:
        paths: The files.
        cache_dir: The folder in which the hashes are kept.
        num_threads: Number of threads that read.
    """
    table = Path(cache_dir) / HASHES
    try:
        known = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged: read everything
        known = {}
    now = time.time_ns()
    unique = list(dict.fromkeys(paths))

    def hash_file(path: Path) -> tuple[str, list]:
        try:
            status = os.stat(path)
        except OSError:
            return ABSENT, []
        facts = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        old = known.get(str(path.absolute()))
        if old and old[:-1] == facts:
            return old[-1], old
        if not path.is_file():
            return ABSENT, []
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, [*facts, digest] if max(facts[1:3]) + MIN_AGE_NS < now else []

    with ThreadPoolExecutor(num_threads) as pool:
        results = dict(zip(unique, pool.map(hash_file, unique), strict=True))
    fresh = {str(path.absolute()): facts for path, (_, facts) in results.items() if facts}
    if any(known.get(path) != facts for path, facts in fresh.items()):
        write_json(table, known | fresh)
    return {path: digest for path, (digest, _) in results.items()}
