"""The command line's flags, parsed so that every mistake is reported at once and nothing heavy is imported."""

import copy
import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from pldmlt_jax.config import Config
from pldmlt_jax.errors import ConfigError, UserError, raise_all, suggest_nearest
from pldmlt_jax.table_config import Table
from pldmlt_jax.workflow.comparison.table_file import chosen, load_table, table_errors
from pldmlt_jax.workflow.options import RunOptions

VERBS_OF = {
    "checkpoint": ("evaluate", "predict", "export", "figures"), "split": ("run", "evaluate", "compare", "figures"),
    "input": ("predict",), "images": ("figures",), "output": ("predict", "export", "evaluate", "figures"),
    "predictions": ("evaluate",), "engine": ("evaluate", "predict"), "probabilities": ("predict",), "format": ("export",),
    "augmented": ("prepare",), "rows": ("compare",), "folds": ("compare",), "seeds": ("compare",),
}  # fmt: skip
"""The verbs that a flag has an effect on."""

CONFIG_MODULE = "config_config"
"""Under which ml_collections loads the file of the flag `config`."""

TEXTS = (
    "workdir", "checkpoint", "split", "input", "output", "engine", "format", "predictions", "rows", "folds", "seeds",
    "images",
)  # fmt: skip
"""Flags whose value is a text."""

SWITCHES = ("debug", "print_config", "probabilities")
"""Flags that take no value."""

PASSED_ON = (
    "checkpoint", "split", "input", "output", "engine", "probabilities", "format", "augmented", "predictions", "images",
    "print_config", "debug",
)  # fmt: skip
"""Flags whose values are options of the same name."""

DEMO_CONFIG = "configs/demo.py"

COMPARE = "compare"
"""The verb whose config file makes a table of configs."""

HELP = """PLDMLT: lesion segmentation and diabetic retinopathy grading in one network

usage: python main.py [VERB] [--config=FILE] [--config.FIELD=VALUE ...] [flags]
  python main.py                              the whole method on drawn images, a few minutes
  python main.py --config=configs/idrid.py    stage by stage; what is complete is skipped

verbs (without one: all stages, which are those with a number)
  check           every problem of the raw data, file by file, and a plan
  prepare       1 raw files -> prepared set, once
  train-grader  2 stage 1's graders
  pseudo-label  3 ensemble, Grad-CAM, refinement by the lesion masks
  train         4 Algorithm 1; goes on from its latest checkpoint
  evaluate      5 metrics.json and per_image.csv of a split
  predict       6 mask, overlay, grade and its map of any image files (--input)
  report        7 report.html, one page of everything the run left
  export          weights, StableHLO, ONNX and a model card, to use without this program
  figures         figures 1, 6 and 7 of the paper for the networks of --checkpoint: PDF, SVG, PNG
  compare         every run of a table that is not complete; table.md, .csv, .json, compare.html

flags
  --config=FILE           a file under configs/ (default: configs/demo.py)
  --config.FIELD=VALUE    sets a field: all are in docs/configs.md, this run's with --print_config
  --workdir=DIR           where the run's files go (default: runs/NAME)
  --checkpoint=DIR        a workdir or an exported folder (default: the workdir); several by comma:
                          the mean of their probabilities, of figures a column each. predict with
                          neither this nor --config nor --workdir: the network that ships
  --split=NAME            train, val, test, official_test, or all (default: test, else val)
  --input=PATH            predict: an image, a folder or a quoted pattern; several with commas
  --images=NAMES          figures: these images of the split (default: the one with most lesions)
  --predictions=DIR       evaluate: any method's mask files, see docs/compare.md
  --output=DIR            predict, export, figures, evaluate --predictions: where results go
  --probabilities         predict: the probability of each lesion as well, as 16-bit PNG
  --engine=NAME           evaluate, predict: xla (default), onnx, openvino (docs/dependencies.md)
  --format=NAMES          export: folder, int8, stablehlo, onnx, with commas (default: not int8)
  --augmented=NUMBER      prepare: a sheet of so many training images, as training sees them
  --rows, --folds, --seeds=NAMES  compare: these alone, with commas
  --print_config          prints every field, its meaning and what differs from the default; no more
  --debug                 a traceback with an error
  --help                  this text
"""


def _define(values: flags.FlagValues, source: str | Config) -> None:
    if isinstance(source, Config):
        config_flags.DEFINE_config_dataclass("config", copy.deepcopy(source), flag_values=values)
    else:
        config_flags.DEFINE_config_file("config", default=source, flag_values=values)
    for name in TEXTS:
        flags.DEFINE_string(name, "", "", flag_values=values)
    flags.DEFINE_integer("augmented", 0, "", lower_bound=0, flag_values=values)
    for name in SWITCHES:
        flags.DEFINE_bool(name, False, "", flag_values=values)


def _parse(source: str | Config, arguments: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """Values and words of the command line, on top of a config file or of the config of a table's row."""
    config = [] if isinstance(source, Config) else [f"--config={source}"]
    values, argv = flags.FlagValues(), ["main.py", *config, *arguments]
    before, sys.argv = sys.argv, argv  # ml_collections looks for overrides there, not in what is being parsed
    sys.modules.pop(CONFIG_MODULE, None)  # else a file without get_config would have that of the file read before
    try:
        _define(values, source)
        return values, values(argv)[1:]
    finally:
        sys.argv = before


def _config_file(arguments: list[str]) -> tuple[str, bool, list[str]]:
    """Takes `--config=FILE` (or `--config FILE`) out of the arguments, wherever it stands."""
    rest, chosen = [], None
    remaining = iter(arguments)
    for argument in remaining:
        if argument in ("--config", "-config"):
            chosen = next(remaining, "")
        elif argument.startswith(("--config=", "-config=")):
            chosen = argument.split("=", 1)[1]
        else:
            rest.append(argument)
    return chosen if chosen is not None else DEMO_CONFIG, chosen is not None, rest


def _require_config_file(path: str) -> None:
    if not Path(path.split(":")[0]).is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py"))
        action = suggest_nearest(path, known, "check the path")
        raise ConfigError(
            "--config", f"no file {path!r}", f"a config file: {', '.join(known) or 'none under configs/ here'}", action
        )
    expected = "a file with get_config() -> Config"
    try:
        made = _parse(path, [])[0].config
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file is a program, and can raise anything
        found = str(error).strip().splitlines() or [type(error).__name__]  # ml_collections puts the traceback before it
        table = "get_config" in found[-1] and "def get_table" in Path(path).read_text(errors="replace")
        action = f"it is a table: python main.py {COMPARE} --config={path}" if table else _mended(found[-1])
        raise ConfigError(path, found[-1], expected, action) from error
    if not isinstance(made, Config):
        raise ConfigError(path, f"get_config() returns a {type(made).__name__}", expected, "return a Config")


def _mended(message: str) -> str:
    """What to do about Python's complaint over a config file; a misspelt field is told the nearest one."""
    otherwise = "mend the file; --debug shows where"
    match = re.search(r"unexpected keyword argument '(\w+)'", message)
    known = {path.rpartition(".")[-1] for path in _field_paths(Config())}
    return suggest_nearest(match[1], sorted(known), otherwise) if match else otherwise


def _field_paths(config: Any, prefix: str = "config.") -> Iterator[str]:
    for name, value in vars(config).items():
        yield prefix + name
        if hasattr(value, "__dataclass_fields__"):
            yield from _field_paths(value, f"{prefix}{name}.")


def _explain(argument: str, error: Exception, config: Config) -> UserError:
    name = argument.lstrip("-").split("=", 1)[0]
    paths, flag_names = list(_field_paths(config)), ["config", "workdir", *VERBS_OF, *SWITCHES, "help"]
    known = paths if name.startswith("config.") else flag_names
    if name in known:
        detail = str(error).splitlines()[0]
        return ConfigError(f"--{name}", detail, "a value of the field's type", "correct the value")
    what = "config field" if name.startswith("config.") else "flag"
    same_field = [path for path in paths if path.rpartition(".")[-1] == name.rpartition(".")[-1]]
    action = suggest_nearest(
        f"--{name}", [f"--{other}" for other in same_field or known], "see python main.py --help, and docs/configs.md"
    )
    return ConfigError(f"--{name}", f"no such {what}", f"a known {what}", action)


def parse(argv: list[str], verbs: tuple[str, ...]) -> RunOptions | None:
    """Reads the command line.

    Args:
        argv: As in `sys.argv`.
        verbs: The known verbs.

    Returns:
        The options, or None if the help was printed.

    Raises:
        ConfigError: Or a group of them: every wrong flag, field, value or verb, at once. Where all could be read, the
            values' ranges are left to `config_checks.validate_config`, which sees the config that the verb will use.
    """
    argv = [argv[0], *map(_with_home, argv[1:])]
    config_file, config_given, rest = _config_file(argv[1:])
    if any(argument in ("--help", "-h", "-help", "--helpfull", "help") for argument in rest):
        print(HELP)
        return None
    positional = [argument for argument in _joined(rest) if not argument.startswith("-")]
    table = load_table(config_file) if positional[:1] == [COMPARE] else None
    if table is None:
        _require_config_file(config_file)
    source = config_file if table is None else table.rows[0].config
    default = _parse(source, [])[0].config
    errors: list[UserError] = []
    readable: list[str] = []
    for argument in _joined(rest):
        if not argument.startswith("-"):
            continue
        try:
            _parse(source, [argument])
            readable.append(argument)
        except Exception as error:  # absl, ml_collections and the dataclass each raise their own
            errors.append(_explain(argument, error, default))
    if more := positional[1:]:
        where = ", ".join(more[:3]) + (f" and {len(more) - 3} more" if len(more) > 3 else "")
        action = "write flags as --name=value, and a pattern in quotes, for the shell puts names in its place"
        errors.append(ConfigError(where, "more than one word", "at most one verb", action))
    verb = positional[0] if positional else "run"
    if positional and verb not in verbs:
        action = suggest_nearest(verb, verbs, "see python main.py --help")
        errors.append(ConfigError(verb, "no such verb", "one of " + ", ".join(verbs), action))
    for word in (argument.lstrip("-").split("=", 1)[0] for argument in readable):
        if verb not in VERBS_OF.get(word, (verb,)):
            expected = "it with " + " or ".join(name if name != "run" else "no verb" for name in VERBS_OF[word])
            errors.append(ConfigError(f"--{word}", f"no effect on {verb!r}", expected, "leave it away"))
    errors += _conflicts(verb, readable)
    if errors:  # told together with what is wrong with the values that could be read
        from pldmlt_jax.config_checks import config_errors  # it imports the method and with it JAX

        if table is not None:
            raise_all([*errors, *table_errors(_overridden(table, readable), list(_overrides(readable)), config_errors)])
        raise_all([*errors, *config_errors(_parse(config_file, readable)[0].config)])
    values, _ = _parse(source, _joined(rest))
    config, rows = values.config, ()
    if table is not None:
        table, rows = chosen(_overridden(table, _joined(rest)), values.rows, values.folds, values.seeds)
    workdir = Path(values.workdir or (f"runs/{table.name}" if table else config.workdir or f"runs/{config.name}"))
    return RunOptions(
        config,
        workdir,
        verb,
        config_given,
        workdir_given=bool(values.workdir),
        overrides=tuple(_overrides(_joined(rest))),
        table=table,
        rows=rows,
        words=tuple(_joined(argv[1:])),
        **{name: getattr(values, name) for name in PASSED_ON},
    )


def _conflicts(verb: str, arguments: list[str]) -> Iterator[UserError]:
    """Flags that do not go together."""
    given = {argument.lstrip("-").split("=", 1)[0] for argument in arguments}
    if {"predictions", "checkpoint"} <= given:
        found, action = "given with --checkpoint", "leave one of the two away"
        yield ConfigError("--predictions", found, "masks from files, or from a checkpoint", action)
    if verb == "evaluate" and "output" in given and "predictions" not in given:
        yield ConfigError(
            "--output", "given without --predictions", "--workdir for the results of a checkpoint", "take that"
        )


def _overridden(table: Table, arguments: list[str]) -> Table:
    """The table with what the command line sets of its rows' configs."""
    rows = (dataclasses.replace(row, config=_parse(row.config, arguments)[0].config) for row in table.rows)
    return dataclasses.replace(table, rows=tuple(rows))


def _overrides(arguments: list[str]) -> Iterator[str]:
    for argument in arguments:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name.startswith("config."):
            yield name.removeprefix("config.")


def _with_home(argument: str) -> str:
    """`--name=~/x` with the home folder in it: shells put that in the place of ~ at the beginning of a word alone."""
    name, mark, value = argument.partition("=")
    if not argument.startswith("-") or "~" not in value:
        return argument
    parts = (os.path.expanduser(part) if re.match(r"~(/|$)", part) else part for part in value.split(","))
    return f"{name}{mark}{','.join(parts)}"


def _joined(arguments: list[str]) -> list[str]:
    """`--name value` as `--name=value`, for flags that take a value."""
    joined: list[str] = []
    switches = [f"--{prefix}{name}" for name in SWITCHES for prefix in ("", "no")]
    remaining = iter(arguments)
    for argument in remaining:
        takes_value = argument.startswith("--") and "=" not in argument and argument not in switches
        if takes_value:
            value = next(remaining, None)
            joined.append(argument if value is None else f"{argument}={value}")
        else:
            joined.append(argument)
    return joined
