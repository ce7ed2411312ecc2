"""The ground that everything stands on: the choice of Python, the installation, the locks, the tracked files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FIND_PYTHON = ROOT / "scripts" / "find_python.sh"
INSTALL = ROOT / "scripts" / "install.sh"
LOCKS = (("requirements.txt", "requirements.lock"), ("requirements-dev.txt", "requirements-dev.lock"))


def _write_python(path: Path, version: str, makes_venvs: bool = True) -> Path:
    """A stand-in for a Python that answers the two questions the script asks; version "" is one that only fails."""
    lines = [
        "#!/bin/sh",
        "case $* in",
        f"    *ensurepip*) exit {0 if makes_venvs else 1} ;;",
        '    *"-m venv"*) mkdir -p .venv/bin; echo "no space left" >&2; exit 1 ;;',
        "esac",
        f"echo {version}" if version else 'echo "command not found" >&2; exit 127',
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def system_path(tmp_path: Path) -> Path:
    """A folder with the few programs the scripts call and no Python."""
    folder = tmp_path / "system"
    folder.mkdir()
    for program in ("sh", "sed", "sort", "dirname", "basename", "cmp", "rm", "mkdir", "cp", "touch"):
        (folder / program).symlink_to(str(shutil.which(program)))
    return folder


def _run(script: Path, *args: str, path: list[Path], cwd: Path = ROOT, python: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.pathsep.join(map(str, path)), "PYTHON": python}
    return subprocess.run(["/bin/sh", str(script), *args], env=environment, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"a/python3.13": "3.13", "a/python3.12": "3.12"}, "a/python3.13"),
        ({"a/python3.13": "", "b/python3.12": "3.12", "b/python3": "3.11"}, "b/python3.12"),
        ({"a/python3.13": "", "b/python3.13": "3.13", "a/python3.12": "3.12"}, "b/python3.13"),
        ({"a/python3": "3.13", "a/python3.11": "3.11"}, "a/python3"),
        ({"a/python3": "3.10", "b/python": "3.12"}, "b/python"),
        ({"a/python3.11": "3.11", "a/python3": "3.14"}, "a/python3.11"),
    ],
    ids=["newest", "shim-fails", "shim-hides-a-working-one", "plain-python3-newer", "plain-python", "newer-than-known"],
)
def test_newest_working_python_is_chosen(tmp_path: Path, system_path: Path, pythons: dict[str, str], chosen: str) -> None:
    for name, version in pythons.items():
        _write_python(tmp_path / name, version)
    result = _run(FIND_PYTHON, path=[tmp_path / "a", tmp_path / "b", system_path])
    assert (result.returncode, result.stdout.strip()) == (0, str(tmp_path / chosen)), result.stderr


def test_no_fitting_python_is_told_with_what_was_found(tmp_path: Path, system_path: Path) -> None:
    old = _write_python(tmp_path / "a" / "python3", "3.9")
    shim = _write_python(tmp_path / "a" / "python3.12", "")
    result = _run(FIND_PYTHON, path=[tmp_path / "a", system_path])
    assert result.returncode == 1 and result.stdout == ""
    assert "no Python 3.11, 3.12 or 3.13" in result.stderr
    assert f"{old}: 3.9" in result.stderr and f"{shim}: does not run" in result.stderr


def test_no_python_at_all_is_told(system_path: Path) -> None:
    result = _run(FIND_PYTHON, path=[system_path])
    assert result.returncode == 1 and "none" in result.stderr and "apt install" in result.stderr


def test_python_without_venv_is_told_unless_another_has_it(tmp_path: Path, system_path: Path) -> None:
    _write_python(tmp_path / "a" / "python3.12", "3.12", makes_venvs=False)
    result = _run(FIND_PYTHON, path=[tmp_path / "a", system_path])
    assert result.returncode == 1 and "apt install python3-venv" in result.stderr
    other = _write_python(tmp_path / "b" / "python3.11", "3.11")
    result = _run(FIND_PYTHON, path=[tmp_path / "a", tmp_path / "b", system_path])
    assert result.returncode == 0 and result.stdout.strip() == str(other)


@pytest.mark.parametrize(("version", "status"), [("3.14", 0), ("3.11", 0), ("3.10", 1), ("2.7", 1), ("", 1)])
def test_named_python_is_taken_if_it_is_new_enough(tmp_path: Path, system_path: Path, version: str, status: int) -> None:
    _write_python(tmp_path / "a" / "python3.13", "3.13")
    named = str(_write_python(tmp_path / "named", version))
    result = _run(FIND_PYTHON, path=[tmp_path / "a", system_path], python=named)
    assert result.returncode == status
    if status == 0:
        assert result.stdout.strip() == named
    else:
        assert named in result.stderr and "3.11 or newer" in result.stderr


def test_failed_environment_is_removed_and_told(tmp_path: Path, system_path: Path) -> None:
    _write_python(tmp_path / "a" / "python3.12", "3.12")
    result = _run(INSTALL, "requirements.lock", path=[tmp_path / "a", system_path], cwd=tmp_path)
    assert result.returncode == 1 and not (tmp_path / ".venv").exists()
    assert "no space left" in result.stderr and "python3-venv" in result.stderr


def _write_environment(folder: Path, pip_status: int) -> Path:
    """A stand-in for .venv whose Python writes down how pip was called."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase $* in *"-m pip"*) echo "$*" >>calls; exit {pip_status} ;; esac\n')
    python.chmod(0o755)
    return folder / "calls"


def test_only_a_changed_lock_is_installed_again(tmp_path: Path, system_path: Path) -> None:
    calls = _write_environment(tmp_path, pip_status=0)
    lock = tmp_path / "some.lock"
    for content, number_of_calls in (("one", 1), ("one", 1), ("two", 2)):
        lock.write_text(content)
        result = _run(INSTALL, "some.lock", path=[system_path], cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert len(calls.read_text().splitlines()) == number_of_calls
    assert "--require-hashes -r some.lock" in calls.read_text()


def test_failed_installation_is_told_and_tried_again(tmp_path: Path, system_path: Path) -> None:
    calls = _write_environment(tmp_path, pip_status=1)
    (tmp_path / "some.lock").write_text("one")
    for number_of_calls in (1, 2):
        result = _run(INSTALL, "some.lock", path=[system_path], cwd=tmp_path)
        assert result.returncode == 1 and "pip could not install some.lock" in result.stderr
        assert len(calls.read_text().splitlines()) == number_of_calls


def _requirements(path: Path) -> list[Requirement]:
    lines = [line.split("  #")[0].strip() for line in path.read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def _locked(path: Path) -> list[Requirement]:
    lines = path.read_text().splitlines()
    return [Requirement(line.rstrip("\\").strip()) for line in lines if re.match(r"\w", line)]


def _versions(requirements: list[Requirement], python: str) -> dict[str, str]:
    environment = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
    return {
        re.sub(r"[-_.]+", "-", each.name).lower(): str(each.specifier)
        for each in requirements
        if each.marker is None or each.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(("wanted", "lock"), LOCKS)
def test_lock_holds_what_the_requirements_pin(wanted: str, lock: str, python: str) -> None:
    pins = _versions(_requirements(ROOT / wanted), python)
    locked = _versions(_locked(ROOT / lock), python)
    assert pins and all(pin.startswith("==") for pin in pins.values())
    assert pins.items() <= locked.items()
    assert not {"tensorflow", "torch", "opencv-python"} & locked.keys()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_development_adds_to_the_locked_versions_and_changes_none(python: str) -> None:
    runtime, development = (_versions(_locked(ROOT / lock), python) for _, lock in LOCKS)
    assert runtime.items() <= development.items()


@pytest.mark.parametrize(("_wanted", "lock"), LOCKS)
def test_lock_has_a_hash_for_each_package_and_no_address(_wanted: str, lock: str) -> None:
    text = (ROOT / lock).read_text()
    packages = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert packages and all("--hash=sha256:" in package for package in packages)
    assert "://" not in text and "index-url" not in text and "find-links" not in text


def test_licences_of_all_locked_packages_are_listed_as_their_metadata_says():
    """Of packages that this Python has not, that they are there at all."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import licences
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    listed = (ROOT / "docs" / "licences.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (.+) \|$", listed, re.MULTILINE)
    assert {name for name, _ in rows} - {"package", "---"} == {
        name for lock in licences.LOCKS.values() for name in licences.locked_names(ROOT / lock)
    }
    here = [line for line in licences.table().splitlines() if licences.UNKNOWN not in line]
    assert set(here) <= set(listed.splitlines())
    assert licences.UNKNOWN not in listed and "GPL" not in listed.replace("LGPL", "")


def test_tracked_files_name_no_registry_and_no_home_folder() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    forbidden = re.compile(
        rb"pythonhosted\.|pypi\.(org|python)|(extra-)?index-url *[ =]|(?<![\w.}])/(home|root|work|Users)/\w"
    )
    own = Path(__file__).relative_to(ROOT).as_posix()
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or name == own or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{name}: {match.group().decode()}" for match in forbidden.finditer(content)]
    assert not found


def test_help_names_every_target() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not there")
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in shown.splitlines()[1:]} == set(phony.group(1).split())
