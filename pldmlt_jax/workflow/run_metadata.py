"""The versions, the revision and the machine that a run's figures belong to."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

LIBRARIES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array-record", "tensorflow-datasets", "numpy",
    "opencv-python-headless", "ml-collections", "clu",
)  # fmt: skip


def _git_revision() -> str:
    """The commit of this checkout, with `-dirty` where files differ; empty where it is no checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def describe_versions() -> dict[str, str | int]:
    """Versions of the libraries, git revision and system; asks no device."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "git_revision": _git_revision(),
        "platform": platform.platform(),
    }


def describe_environment() -> dict[str, str | int]:
    """Versions of the libraries, git revision, device and processor count."""
    import jax

    return describe_versions() | {
        "device": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        "device_count": jax.device_count(),
        "cpu_count": os.cpu_count() or 0,
        "command": " ".join(sys.argv),
    }
