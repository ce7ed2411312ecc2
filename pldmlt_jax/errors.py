"""Errors that a user can cause, each with one message that says what to do about it.

The command line turns them into exit status 2 and prints the message alone; everything else that is raised is a defect
of this program (exit status 1).
"""

import contextlib
import difflib
import sys
from collections.abc import Iterator, Sequence


class UserError(Exception):
    """A file, a field or a flag is not as the program needs it.

    Args:
        where: The file or the config field, for example `data.root` or a path.
        found: What was found there.
        expected: What was expected.
        action: What the user can do.
    """

    def __init__(self, where: object, found: str, expected: str, action: str):
        super().__init__(where, found, expected, action)
        self.where, self.found, self.expected, self.action = str(where), found, expected, action

    def __str__(self) -> str:
        return f"{self.where}: {self.found}\n  expected: {self.expected}\n  to do:    {self.action}"


class ConfigError(UserError):
    """A config field has a value outside its range, or two fields contradict each other."""


class DataError(UserError):
    """A raw data file is missing, unreadable or not of the expected form."""


class CheckpointError(UserError):
    """A checkpoint or a weight file does not fit the network."""


class ErrorGroup(UserError):
    """Several user errors, reported at once so that they can be mended at once."""

    def __init__(self, errors: Sequence[UserError]):
        super().__init__("", "", "", "")
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def not_installed(error: ModuleNotFoundError) -> str:
    """What is told where this Python lacks a package: mostly it is not the one that was installed into."""
    action = ".venv/bin/python main.py, where `make` has made that; else pip install -r requirements.txt"
    return f"failed: {sys.executable}: {error}\n  expected: the packages of requirements.txt\n  to do:    {action}"


def nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    """What to do about a name that is not known: take the one that it resembles, or else something."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else otherwise


@contextlib.contextmanager
def collect_errors(errors: list[UserError]) -> Iterator[None]:
    """Adds a user error raised inside to the list, so that what else is wrong is found too; `raise_all` ends that."""
    try:
        yield
    except UserError as error:
        errors.append(error)


def raise_all(errors: Sequence[UserError]) -> None:
    """Raises the errors, each once, if there are any: one alone, several as an `ErrorGroup`."""
    single = (one for error in errors for one in (error.errors if isinstance(error, ErrorGroup) else (error,)))
    different = list({str(error): error for error in single}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        raise ErrorGroup(different)
