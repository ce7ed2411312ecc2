"""The command line's flags, parsed so that every mistake is reported at once and nothing heavy is imported."""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import config_flags

from pldmlt_jax.cli.config_file import load_config, load_table
from pldmlt_jax.config import Config, fields
from pldmlt_jax.errors import ConfigError, UserError, raise_all, suggest_nearest
from pldmlt_jax.table_config import Table
from pldmlt_jax.workflow.comparison.table_checks import select_rows, table_errors
from pldmlt_jax.workflow.options import RunOptions


class Flag(NamedTuple):
    """A flag of the command line, besides --config and --help.

    Attributes:
        kind: The type of its value; a bool takes none.
        verbs: The verbs that it has an effect on; () = all.
    """

    kind: type[str | int | bool]
    verbs: tuple[str, ...] = ()


FLAGS = {
    "workdir": Flag(str),
    "checkpoint": Flag(str, ("evaluate", "predict", "export", "figures")),
    "split": Flag(str, ("run", "evaluate", "compare", "figures")),
    "input": Flag(str, ("predict",)),
    "images": Flag(str, ("figures",)),
    "output": Flag(str, ("predict", "export", "evaluate", "figures")),
    "predictions": Flag(str, ("evaluate",)),
    "engine": Flag(str, ("evaluate", "predict")),
    "probabilities": Flag(bool, ("predict",)),
    "format": Flag(str, ("export",)),
    "augmented": Flag(int, ("prepare",)),
    "rows": Flag(str, ("compare",)),
    "folds": Flag(str, ("compare",)),
    "seeds": Flag(str, ("compare",)),
    "one_run": Flag(bool, ("compare",)),
    "print_config": Flag(bool),
    "debug": Flag(bool),
}
"""Name -> flag. Most values become the field of `RunOptions` of the same name."""

TABLE_FLAGS = ("rows", "folds", "seeds")
"""Flags that select runs of a table."""

DEMO_CONFIG = "configs/demo.py"

COMPARE = "compare"
"""The verb whose config file makes a table of configs."""

HELP = """PLDMLT: lesion segmentation and diabetic retinopathy grading in one network

usage: python main.py [VERB] [--config=FILE] [--config.FIELD=VALUE ...] [flags]
  python main.py                              the whole method on synthetic images, a few minutes
  python main.py --config=configs/idrid.py    stage by stage; complete stages are skipped

verbs (without one: all stages, which are the numbered verbs)
  check           every problem of the raw data, file by file, and a plan for the training
  prepare       1 raw files -> prepared data set, once
  train-grader  2 the graders of stage 1
  pseudo-label  3 ensemble, Grad-CAM, refinement by the lesion masks
  train         4 Algorithm 1; resumes from its latest checkpoint
  evaluate      5 metrics.json and per_image.csv of a split
  predict       6 mask, overlay, grade and Grad-CAM of any image files (--input)
  report        7 report.html, one page with everything in the workdir
  export          weights, StableHLO, ONNX and a model card, to use without this program
  figures         figures 1, 6 and 7 of the paper for the networks of --checkpoint: PDF, SVG, PNG
  compare         every incomplete run of a table; table.md, .csv, .json, compare.html

flags
  --config=FILE           a file under configs/ (default: configs/demo.py)
  --config.FIELD=VALUE    sets a field; docs/configs.md lists all, --print_config those of this run
  --workdir=DIR           folder for the files of the run (default: runs/NAME)
  --checkpoint=DIR        a workdir or an exported folder (default: the workdir); several, separated
                          by commas: predict averages them, figures shows one column each. predict
                          without this, --config and --workdir uses the bundled model
  --split=NAME            train, val, test, official_test or all (default: test, else val)
  --input=PATH            predict: images, folders or quoted patterns, separated by commas
  --images=NAMES          figures: these images of the split (default: the one with most lesions)
  --predictions=DIR       evaluate: mask files of any method, see docs/compare.md
  --output=DIR            predict, export, figures, evaluate --predictions: folder for the results
  --probabilities         predict: also the probability of each lesion, as 16-bit PNG
  --engine=NAME           evaluate, predict: xla (default), onnx, openvino (docs/dependencies.md)
  --format=NAMES          export: folder, int8, stablehlo, onnx (default: all except int8)
  --augmented=NUMBER      prepare: a sheet with this many augmented training images
  --rows, --folds, --seeds=NAMES  compare: only these; with --one_run one run, in this process
  --print_config          print every field, its meaning and what differs from the default; no more
  --debug                 print a traceback with an error
  --help                  print this text
"""


def parse(argv: Sequence[str], verbs: Sequence[str]) -> RunOptions | None:
    """Reads the command line.

    The config file is executed once.

    Args:
        argv: The program's name and the words behind it, as in `sys.argv`.
        verbs: The known verbs.

    Returns:
        The options, or None if the help was printed.

    Raises:
        ConfigError: A flag, field, value or verb is wrong; all such errors at once, as an `ErrorGroup`. If everything can be
            read, the values are left to `config_checks.validate_config`, which sees the config that the verb will use.
    """
    if any(word in ("--help", "-h", "-help", "--helpfull", "help") for word in argv[1:]):
        print(HELP)
        return None
    words = _normalise(argv[1:])
    files = [_value(word) for word in words if _name(word) == "config"]
    given = [word for word in words if word.startswith("--") and _name(word) != "config"]
    positional = [word for word in words if not word.startswith("--")]
    verb = positional[0] if positional else "run"
    path = files[-1] if files else DEMO_CONFIG
    table = load_table(path) if verb == COMPARE else None
    config = table.rows[0].config if table else load_config(path)
    readable, errors = _read_one_by_one(given, config)
    errors += [*_verb_errors(positional, verbs), *_flag_errors(verb, readable)]
    overrides = tuple(_name(word).removeprefix("config.") for word in readable if word.startswith("--config."))
    if table:
        table = _override_rows(table, readable)
    if errors:
        _raise_with_config_errors(errors, _read(readable, config).config, table, overrides)
    values = _read(given, config)
    rows: tuple[str, ...] = ()
    if table:
        table, rows = select_rows(table, *(getattr(values, name) for name in TABLE_FLAGS))
    workdir = values.workdir or (f"runs/{table.name}" if table else values.config.workdir or f"runs/{values.config.name}")
    return RunOptions(
        values.config,
        Path(workdir),
        verb,
        config_given=bool(files),
        workdir_given=bool(values.workdir),
        overrides=overrides,
        table=table,
        rows=rows,
        words=tuple(words),
        **{name: getattr(values, name) for name in FLAGS if name not in ("workdir", *TABLE_FLAGS)},
    )


def _normalise(words: Sequence[str]) -> list[str]:
    """Writes every flag as `--name=value`, or `--name` for a switch, with the home folder instead of ~."""
    switches = [f"--{prefix}{name}" for name, flag in FLAGS.items() if flag.kind is bool for prefix in ("", "no")]
    normalised: list[str] = []
    remaining = iter([f"-{word}" if re.match(r"-\w", word) else word for word in words])
    for word in remaining:
        value = next(remaining, None) if word.startswith("--") and "=" not in word and word not in switches else None
        normalised.append(_expand_home(word if value is None else f"{word}={value}"))
    return normalised


def _expand_home(word: str) -> str:
    """Replaces each ~ of `--name=~/a,~/b` by the home folder: shells do so only at the beginning of a word."""
    name, mark, value = word.partition("=")
    if not word.startswith("-") or "~" not in value:
        return word
    parts = (os.path.expanduser(part) if re.match(r"~(/|$)", part) else part for part in value.split(","))
    return f"{name}{mark}{','.join(parts)}"


def _name(word: str) -> str:
    """Returns the name of a flag; "" for a word that is none."""
    return word[2:].partition("=")[0] if word.startswith("--") else ""


def _value(word: str) -> str:
    return word.partition("=")[2]


def _read(words: Sequence[str], config: Config) -> flags.FlagValues:
    """Reads the values of flags; that of `config` is a copy of the config with the overrides among them."""
    values, argv = flags.FlagValues(), ["main.py", *words]
    config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=argv)
    for name, flag in FLAGS.items():
        if flag.kind is bool:
            flags.DEFINE_bool(name, False, "", flag_values=values)
        elif flag.kind is int:
            flags.DEFINE_integer(name, 0, "", lower_bound=0, flag_values=values)
        else:
            flags.DEFINE_string(name, "", "", flag_values=values)
    values(argv)
    return values


def _read_one_by_one(words: Sequence[str], config: Config) -> tuple[list[str], list[UserError]]:
    """Returns the flags that can be read, and an error for each other one."""
    readable: list[str] = []
    errors: list[UserError] = []
    for word in words:
        try:
            _read([word], config)
            readable.append(word)
        except Exception as error:  # absl, ml_collections and the dataclass each raise their own
            errors.append(_explain(_name(word), error, config))
    return readable, errors


def _explain(name: str, error: Exception, config: Config) -> UserError:
    """Makes the error for a flag that cannot be read, which suggests the most similar name if there is no such flag."""
    paths = [f"config.{path}" for path, _ in fields(config)]
    is_field = name.startswith("config.")
    known = paths if is_field else ["config", *FLAGS, "help"]
    if name in known:
        detail = str(error).splitlines()[0]
        return ConfigError(f"--{name}", detail, "a value of the field's type", "correct the value")
    what = "config field" if is_field else "flag"
    same_field = [path for path in paths if path.rpartition(".")[-1] == name.rpartition(".")[-1]]
    candidates = [f"--{other}" for other in same_field or known]
    action = suggest_nearest(f"--{name}", candidates, "see python main.py --help, and docs/configs.md")
    return ConfigError(f"--{name}", f"no such {what}", f"a known {what}", action)


def _verb_errors(positional: Sequence[str], verbs: Sequence[str]) -> Iterator[UserError]:
    """Yields errors for a verb that is not known and for words after it."""
    if more := positional[1:]:
        where = ", ".join(more[:3]) + (f" and {len(more) - 3} more" if len(more) > 3 else "")
        action = "write flags as --name=value, and a pattern in quotes, because the shell replaces it with file names"
        yield ConfigError(where, "more than one word", "at most one verb", action)
    if positional and positional[0] not in verbs:
        action = suggest_nearest(positional[0], verbs, "see python main.py --help")
        yield ConfigError(positional[0], "no such verb", "one of " + ", ".join(verbs), action)


def _flag_errors(verb: str, words: Sequence[str]) -> Iterator[UserError]:
    """Yields errors for flags that have no effect on the verb, and for flags that exclude each other."""
    given = [_name(word) for word in words]
    for name in given:
        verbs = FLAGS[name].verbs if name in FLAGS else ()
        if verbs and verb not in verbs:
            expected = "it with " + " or ".join("no verb" if other == "run" else other for other in verbs)
            yield ConfigError(f"--{name}", f"no effect on {verb!r}", expected, "remove it")
    if {"predictions", "checkpoint"} <= set(given):
        expected = "masks from files, or from a checkpoint"
        yield ConfigError("--predictions", "given with --checkpoint", expected, "remove one of the two")
    if verb == "evaluate" and "output" in given and "predictions" not in given:
        expected = "--workdir for the results of a checkpoint"
        yield ConfigError("--output", "given without --predictions", expected, "use --workdir instead")


def _override_rows(table: Table, words: Sequence[str]) -> Table:
    """Returns the table with the command line's overrides in the config of every row."""
    rows = tuple(dataclasses.replace(row, config=_read(words, row.config).config) for row in table.rows)
    return dataclasses.replace(table, rows=rows)


def _raise_with_config_errors(
    errors: list[UserError], config: Config, table: Table | None, overrides: Sequence[str]
) -> None:
    """Raises errors of the command line together with those of the values that could be read."""
    if table:
        raise_all([*errors, *table_errors(table, overrides)])
    from pldmlt_jax.config_checks import config_errors  # imports the method, and with it JAX

    raise_all([*errors, *config_errors(config)])
