"""Errors that a user can cause, each with one message that says what to do.

The command line prints the message without a traceback and exits with status 2. Any other exception is a defect of this
program (exit status 1).
"""

import contextlib
import difflib
import sys
from collections.abc import Iterator, Sequence


class UserError(Exception):
    """A file, a config field or a flag is wrong.

    Args:
        where: The file, field or flag, for example `data.root`.
        found: What was found there.
        expected: What was expected.
        action: What the user can do about it.

    Example:
        >>> print(UserError("data.root", "no folder 'dta'", "an existing folder", "did you mean data?"))
        data.root: no folder 'dta'
          expected: an existing folder
          to do:    did you mean data?
    """

    def __init__(self, where: object, found: str, expected: str, action: str):
        super().__init__(where, found, expected, action)
        self.where, self.found, self.expected, self.action = str(where), found, expected, action

    def __str__(self) -> str:
        return f"{self.where}: {self.found}\n  expected: {self.expected}\n  to do:    {self.action}"


class ConfigError(UserError):
    """A config field has a value that is not allowed, or two fields contradict each other."""


class DataError(UserError):
    """A raw data file is missing, unreadable or has unexpected content."""


class CheckpointError(UserError):
    """A checkpoint or a weight file does not fit the network."""


class ErrorGroup(UserError):
    """Several user errors that are reported together.

    Args:
        errors: The errors. None of them is a group.
    """

    def __init__(self, errors: Sequence[UserError]):
        super().__init__("", "", "", "")
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def explain_missing_package(error: ModuleNotFoundError) -> str:
    """Returns the message for a package that cannot be imported, most often because another Python is running.

    Args:
        error: The failed import.
    """
    action = "run .venv/bin/python main.py if `make` has created that, else pip install -r requirements.txt"
    return f"failed: {sys.executable}: {error}\n  expected: the packages of requirements.txt\n  to do:    {action}"


def suggest_nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    """Returns what to do about an unknown name.

    Args:
        name: The unknown name.
        known: The known names. The most similar one is suggested.
        otherwise: What to do if none is similar.
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else otherwise


@contextlib.contextmanager
def collect_errors(errors: list[UserError]) -> Iterator[None]:
    """Catches a user error and adds it to a list, so that further errors are found too. `raise_all` raises them at the end.

    Args:
        errors: The list; a caught error is appended to it.
    """
    try:
        yield
    except UserError as error:
        errors.append(error)


def raise_all(errors: Sequence[UserError]) -> None:
    """Raises the errors that were found, if there are any. Equal messages are reported once.

    Args:
        errors: The errors; groups count as the errors in them.

    Raises:
        UserError: The only error, as it is.
        ErrorGroup: Several errors.
    """
    single = (one for error in errors for one in (error.errors if isinstance(error, ErrorGroup) else (error,)))
    different = list({str(error): error for error in single}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        raise ErrorGroup(different)
