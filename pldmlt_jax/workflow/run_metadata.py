"""Library versions, git revision and machine of a run, so that its metrics can be reproduced."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax

LIBRARIES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array-record", "tensorflow-datasets", "numpy",
    "opencv-python-headless", "ml-collections", "clu",
)  # fmt: skip


def _git_revision() -> str:
    """Returns the commit of this checkout, with `-dirty` if files differ; "" if this is not a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def collect_versions() -> dict[str, str | int]:
    """Returns library versions, git revision and operating system, without initialising a device."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "git_revision": _git_revision(),
        "platform": platform.platform(),
    }


def collect_environment() -> dict[str, str | int]:
    """Returns the values of `collect_versions`, the devices, the number of processors and the command line."""
    return collect_versions() | {
        "device": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        "device_count": jax.device_count(),
        "cpu_count": os.cpu_count() or 0,
        "command": " ".join(sys.argv),
    }
