"""A short form of `python -m tests.faults.long_run`."""

import shutil
from pathlib import Path

from faults.long_run import MAY_GROW_MIB, growth, watched


def test_memory_files_and_threads_do_not_grow_with_the_steps(whole: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "pseudo_labels.csv", tmp_path / "run")
    samples = watched(tmp_path / "run", whole.parent / "cache", steps=500, every_s=0.05)
    grown = growth(samples)
    assert 400 < grown.step < 500
    assert grown.mib <= MAY_GROW_MIB
    assert grown.files <= 2 and grown.threads <= 2
