"""Published weight files: downloaded once by name, checked against their hash and cached."""

import hashlib
import http.client
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.io.files import partial_path, remove_leftovers

RANDOM_START = ("", "none")
"""Values of `model.weights` for a random start."""

TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20


class PublishedFile(NamedTuple):
    """Where a weight file is published, and how to check it."""

    url: str
    algorithm: str
    digest: str
    """Beginning of the file's hash."""


def _torchvision(*names: str) -> dict[str, PublishedFile]:
    """Returns files of torchvision, whose names end with the first digits of their SHA-256."""
    digests = {name: re.findall(r"-([0-9a-f]{8})\.pth$", name)[0] for name in names}
    return {n: PublishedFile(f"https://download.pytorch.org/models/{n}", "sha256", digest) for n, digest in digests.items()}


def _keras(folder: str, digests: dict[str, str]) -> dict[str, PublishedFile]:
    """Returns files of Keras, whose names have no hash; the MD5 is the one that Keras itself checks."""
    base = f"https://storage.googleapis.com/tensorflow/keras-applications/{folder}"
    return {name: PublishedFile(f"{base}/{name}", "md5", digest) for name, digest in digests.items()}


PUBLISHED_FILES: dict[str, PublishedFile] = {
    **_torchvision(
        "vgg16-397923af.pth",
        "resnet18-f37072fd.pth",
        "resnet34-b627a593.pth",
        "resnet50-0676ba61.pth",
        "resnet50-11ad3fa6.pth",
        "resnet101-63fe2227.pth",
        "resnet101-cd907fc2.pth",
        "resnext50_32x4d-7cdf4587.pth",
        "resnext50_32x4d-1a0047aa.pth",
        "resnext101_32x8d-8ba56ff5.pth",
        "resnext101_32x8d-110c445d.pth",
        "densenet121-a639ec97.pth",
        "densenet201-c1103571.pth",
    ),
    **_keras("vgg16", {"vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5": "6d6bbae143d832006294945121d1f1fc"}),
    **_keras(
        "densenet",
        {
            "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5": "30ee3e1110167f948a6b9946edeeb738",
            "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5": "c13680b51ded0fb44dff2d8f86ac8bb1",
        },
    ),
    **_keras(
        "nasnet",
        {
            "NASNet-mobile.h5": "020fb642bf7360b370c678b08e0adf61",
            "NASNet-mobile-no-top.h5": "1ed92395b5b598bdda52abe5c0dbfd63",
        },
    ),
}


def resolve_weights_path(name: str, cache_dir: str) -> str:
    """Returns the path of a weight file, which need not exist yet.

    Args:
        name: A path, the name of a published file, or "" or "none".
        cache_dir: Published files are cached in its folder `weights`.

    Returns:
        The path: in the cache for a published file, as given for any other; "" for a random start.
    """
    if name in RANDOM_START:
        return ""
    return str(Path(cache_dir) / "weights" / name) if name in PUBLISHED_FILES and not Path(name).is_file() else name


def fetch_weights(name: str, cache_dir: str) -> str:
    """Returns the path of a weight file, and downloads a published one unless it is in the cache.

    Args:
        name: A path, the name of a published file, or "" or "none".
        cache_dir: Published files are cached in its folder `weights`.

    Returns:
        The path of the file; "" for a random start.

    Raises:
        CheckpointError: There is no such file, or a published one cannot be downloaded or has the wrong hash.
    """
    path = resolve_weights_path(name, cache_dir)
    if not path or Path(path).is_file():
        if path != name and path:
            _require_hash(PUBLISHED_FILES[name], Path(path), Path(path))
        return path
    if name not in PUBLISHED_FILES:
        raise CheckpointError(
            name,
            "no such file",
            "a file of weights (.pth, .safetensors, Keras' .h5), or the name of a published one: "
            + ", ".join(PUBLISHED_FILES),
            "check --config.model.weights and --config.grader.weights",
        )
    _download(PUBLISHED_FILES[name], Path(path))
    return path


def _manual_download(published: PublishedFile, path: Path) -> str:
    return f"download {published.url} on a machine with a network, and put it at {path}"


def _require_hash(published: PublishedFile, file: Path, path: Path) -> None:
    """Raises CheckpointError unless a file, which is or will be at `path`, has the published hash."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, published.algorithm).hexdigest()
    if not digest.startswith(published.digest):
        found = f"its {published.algorithm} begins with {digest[: len(published.digest)]}: not the published file"
        raise CheckpointError(path, found, published.digest, _manual_download(published, path))


def _download(published: PublishedFile, path: Path) -> None:
    """Downloads to a temporary file and renames it after the check, so the cache never has an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    partial = partial_path(path)
    print(f"  fetching {published.url}", flush=True)
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT_S) as response, partial.open("wb") as file:
            shutil.copyfileobj(response, file, CHUNK_BYTES)
        _require_hash(published, partial, path)
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        found, action = f"cannot be fetched: {error}", _manual_download(published, path)
        raise CheckpointError(path.name, found, "a network, or the file in its place", action) from error
    finally:
        partial.unlink(missing_ok=True)
