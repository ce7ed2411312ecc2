"""Published weight files: fetched once, checked, kept; against a server on the loopback."""

import hashlib
import http.server
import importlib.util
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.models.weights import download as published
from pldmlt_jax.models.weights.download import PUBLISHED_FILES, PublishedFile, fetch_weights, resolve_weights_path

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server that publishes net-DIGEST.pth and some files that are not what they claim; the requests that it has had."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if self.path == "/absent-12345678.pth":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT) + (self.path == "/short-12345678.pth")))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        base = f"http://127.0.0.1:{running.server_address[1]}"
        digests = {f"net-{DIGEST}.pth": DIGEST} | {f"{n}-12345678.pth": "12345678" for n in ("wrong", "absent", "short")}
        table = {name: PublishedFile(f"{base}/{name}", "sha256", digest) for name, digest in digests.items()}
        monkeypatch.setattr(published, "PUBLISHED_FILES", table)
        yield requests
        running.shutdown()


def test_a_published_file_is_fetched_once(server: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        path = Path(fetch_weights(f"net-{DIGEST}.pth", str(tmp_path)))
        assert path == tmp_path / "weights" / f"net-{DIGEST}.pth"
        assert path.read_bytes() == CONTENT
    assert server == [f"/net-{DIGEST}.pth"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "found"),
    [("wrong", "not the published file"), ("absent", "404"), ("short", "not the published file|cannot be fetched")],
)
def test_what_is_not_the_published_file_is_not_kept(server: list[str], tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(CheckpointError, match=found) as error:
        fetch_weights(f"{name}-12345678.pth", str(tmp_path))
    assert f"put it at {tmp_path / 'weights' / f'{name}-12345678.pth'}" in str(error.value)
    assert list((tmp_path / "weights").iterdir()) == []


def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = PublishedFile("http://127.0.0.1:9/net.pth", "sha256", DIGEST)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(published, "PUBLISHED_FILES", {"net.pth": nowhere})
    with pytest.raises(CheckpointError, match=r"(?s)cannot be fetched.*download http://127.0.0.1:9/net.pth .*put it at"):
        fetch_weights("net.pth", str(tmp_path))
    place = tmp_path / "weights" / "net.pth"
    place.write_bytes(CONTENT)  # as it says
    assert fetch_weights("net.pth", str(tmp_path)) == str(place)
    place.write_bytes(CONTENT[1:])  # or half of it
    with pytest.raises(CheckpointError, match="not the published file"):
        fetch_weights("net.pth", str(tmp_path))


def test_a_path_is_taken_as_it_is_and_none_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.pth").write_bytes(b"")
    assert fetch_weights(str(tmp_path / "own.pth"), "cache") == str(tmp_path / "own.pth")
    assert fetch_weights("", "cache") == fetch_weights("none", "cache") == ""
    with pytest.raises(CheckpointError, match=r"(?s)vgg16.pth: no such file.*vgg16-397923af.pth"):
        fetch_weights("vgg16.pth", "cache")
    monkeypatch.chdir(tmp_path)
    Path("vgg16-397923af.pth").write_bytes(b"")  # the user's own, here
    assert resolve_weights_path("vgg16-397923af.pth", "cache") == "vgg16-397923af.pth"


def test_the_table_is_torchvisions_and_kerass_own() -> None:
    """Every address and hash stands in the libraries' sources."""
    folders = {"torchvision": "models", "keras": "src/applications"}
    sources: list[Path] = []
    for library, folder in folders.items():
        found = importlib.util.find_spec(library)
        if found is None or found.origin is None:
            pytest.skip("needs requirements-oracle.txt")
        sources += (Path(found.origin).parent / folder).glob("*.py")
    text = re.sub(r'"\s+f?"', "", "".join(path.read_text() for path in sources))  # strings in parts are joined
    for name, file in PUBLISHED_FILES.items():
        folder, _, own = file.url.rpartition("/")
        assert folder + "/" in text
        assert own in text, name
        assert file.digest in text, name
