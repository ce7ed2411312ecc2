"""A config as text: each field with its value, the comment that `config.py` has beside it, and its default."""

import ast
import functools
import inspect
import io
import tokenize
from typing import Any

from pldmlt_jax import config as fields_home
from pldmlt_jax.config import Config, Part, fields

DIFFERS = "*"
"""Before a field that has another value than its default."""


def config_lines(config: Config) -> list[str]:
    """One line a field: `path = value  # comment`; one that differs from its default is marked, and tells that."""
    comments, defaults = field_comments(), dict(fields(Config()))
    lines = []
    for path, value in fields(config):
        differs = value != defaults[path]
        told = [comments[path], f"(default: {defaults[path]!r})"] if differs else [comments[path]]
        lines.append(f"{DIFFERS if differs else ' '} {path} = {value!r}  # {' '.join(told)}")
    return lines


def config_text(config: Config) -> str:
    """The lines as Markdown, for TensorBoard."""
    return "\n".join(f"    {line}" for line in config_lines(config))


@functools.cache
def field_comments() -> dict[str, str]:
    """Dotted path of each field -> its comment, as the source has it."""
    source = inspect.getsource(fields_home)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    of_class = {
        node.name: {
            line.target.id: " ".join(said[n] for n in range(line.lineno, (line.end_lineno or line.lineno) + 1) if n in said)
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }

    def paths(part: Any, prefix: str) -> dict[str, str]:
        found = {}
        for name, value in vars(part).items():
            if isinstance(value, Part):
                found |= paths(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = of_class[type(part).__name__][name]
        return found

    return paths(Config(), "")
