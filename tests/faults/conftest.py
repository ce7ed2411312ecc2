"""One undisturbed run of the tiny config, without a network, that the tests of this folder compare with."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.runs import arguments

from pldmlt_jax.cli.app import run
from pldmlt_jax.io.signals import STOP


@pytest.fixture
def no_signal() -> Iterator[None]:
    """Forgets the signals of a test."""
    yield
    STOP.signum = 0


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir; its cache is beside it. Any look-up of a name or connection is an error."""
    workdir = tmp_path_factory.mktemp("faults") / "whole"
    tried: list[object] = []

    def refuse(*given: object, **_: object) -> None:
        tried.append(given)
        raise OSError("no network")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, refuse)
        for name in ("getaddrinfo", "gethostbyname", "create_connection"):
            patch.setattr(socket, name, refuse)
        assert run(["main.py", *arguments(workdir, workdir.parent / "cache")]) == 0
    assert not tried
    return workdir
