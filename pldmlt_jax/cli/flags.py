"""The command line's flags, parsed so that every mistake is reported at once and nothing heavy is imported."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from pldmlt_jax.config import Config
from pldmlt_jax.errors import ConfigError, UserError, nearest, raise_all

VERBS_OF = {
    "checkpoint": ("evaluate", "predict", "export"), "split": ("run", "evaluate"), "input": ("predict",),
    "output": ("predict", "export"), "engine": ("evaluate", "predict"), "probabilities": ("predict",),
    "format": ("export",), "augmented": ("prepare",),
}  # fmt: skip
"""The verbs that a flag has an effect on."""

SWITCHES = ("debug", "print_config", "probabilities")
"""Flags that take no value."""

DEMO_CONFIG = "configs/demo.py"

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

flags
  --config=FILE           a file under configs/ (default: configs/demo.py)
  --config.FIELD=VALUE    sets a field: all are in docs/configs.md, this run's with --print_config
  --workdir=DIR           where the run's files go (default: runs/NAME)
  --checkpoint=DIR        evaluate, predict, export: a workdir or an exported folder (default: the
                          workdir); several with commas: the mean of their probabilities
  --split=NAME            evaluate: train, val, test or official_test (default: test, else val)
  --input=PATH            predict: an image, a folder or a quoted pattern; several with commas
  --output=DIR            predict, export: where results go (default: in the workdir)
  --probabilities         predict: the probability of each lesion as well, as 16-bit PNG
  --engine=NAME           evaluate, predict: xla (default), onnx, openvino (docs/dependencies.md)
  --format=NAMES          export: folder, stablehlo, onnx, with commas (default: all)
  --augmented=NUMBER      prepare: a sheet of so many training images, as training sees them
  --print_config          prints every field, its meaning and what differs from the default; no more
  --debug                 a traceback with an error
  --help                  this text
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line said."""

    verb: str
    config: Config
    config_given: bool
    workdir: Path
    checkpoint: str = ""
    split: str = ""  # "" = test, or val where no test images are on disk
    input: str = ""
    output: str = ""
    engine: str = ""  # "" = xla
    probabilities: bool = False
    format: str = ""  # "" = all
    augmented: int = 0
    print_config: bool = False
    overrides: tuple[str, ...] = ()  # config fields that it set, dotted
    workdir_given: bool = False


def _define(values: flags.FlagValues, config_file: str) -> None:
    config_flags.DEFINE_config_file("config", default=config_file, flag_values=values)
    for name in ("workdir", "checkpoint", "split", "input", "output", "engine", "format"):
        flags.DEFINE_string(name, "", "", flag_values=values)
    flags.DEFINE_integer("augmented", 0, "", lower_bound=0, flag_values=values)
    for name in SWITCHES:
        flags.DEFINE_bool(name, False, "", flag_values=values)


def _parse(config_file: str, arguments: list[str]) -> tuple[flags.FlagValues, list[str]]:
    values, argv = flags.FlagValues(), ["main.py", f"--config={config_file}", *arguments]
    before, sys.argv = sys.argv, argv  # ml_collections looks for overrides there, not in what is being parsed
    try:
        _define(values, config_file)
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
        action = nearest(path, known, "check the path")
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
        raise ConfigError(path, found[-1], expected, _mended(found[-1])) from error
    if not isinstance(made, Config):
        raise ConfigError(path, f"get_config() returns a {type(made).__name__}", expected, "return a Config")


def _mended(message: str) -> str:
    """What to do about Python's complaint over a config file; a misspelt field is told the nearest one."""
    otherwise = "mend the file; --debug shows where"
    match = re.search(r"unexpected keyword argument '(\w+)'", message)
    known = {path.rpartition(".")[-1] for path in _field_paths(Config())}
    return nearest(match[1], sorted(known), otherwise) if match else otherwise


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
    action = nearest(
        f"--{name}", [f"--{other}" for other in same_field or known], "see python main.py --help, and docs/configs.md"
    )
    return ConfigError(f"--{name}", f"no such {what}", f"a known {what}", action)


def parse(argv: list[str], verbs: tuple[str, ...]) -> Arguments | None:
    """Reads the command line.

    Args:
        argv: As in `sys.argv`.
        verbs: The known verbs.

    Returns:
        The arguments, or None where help was asked for.

    Raises:
        ConfigError: Or a group of them: every wrong flag, field, value or verb, at once. Where all could be read, the
            values' ranges are left to `validation.validate`, which sees the config that the verb will use.
    """
    config_file, config_given, rest = _config_file(argv[1:])
    if any(argument in ("--help", "-h", "-help", "--helpfull", "help") for argument in rest):
        print(HELP)
        return None
    _require_config_file(config_file)
    default = _parse(config_file, [])[0].config
    errors: list[UserError] = []
    readable: list[str] = []
    for argument in _joined(rest):
        if not argument.startswith("-"):
            continue
        try:
            _parse(config_file, [argument])
            readable.append(argument)
        except Exception as error:  # absl, ml_collections and the dataclass each raise their own
            errors.append(_explain(argument, error, default))
    positional = [argument for argument in _joined(rest) if not argument.startswith("-")]
    for word in positional[1:]:
        errors.append(ConfigError(word, "a second word", "at most one verb", "write flags as --name=value"))
    verb = positional[0] if positional else "run"
    if positional and verb not in verbs:
        action = nearest(verb, verbs, "see python main.py --help")
        errors.append(ConfigError(verb, "no such verb", "one of " + ", ".join(verbs), action))
    for word in (argument.lstrip("-").split("=", 1)[0] for argument in readable):
        if verb not in VERBS_OF.get(word, (verb,)):
            expected = "it with " + " or ".join(name if name != "run" else "no verb" for name in VERBS_OF[word])
            errors.append(ConfigError(f"--{word}", f"no effect on {verb!r}", expected, "leave it away"))
    if errors:  # told together with what is wrong with the values that could be read
        from pldmlt_jax.validation import config_errors  # it imports the method and with it JAX

        raise_all([*errors, *config_errors(_parse(config_file, readable)[0].config)])
    values, _ = _parse(config_file, _joined(rest))
    config = values.config
    workdir = Path(values.workdir or config.workdir or f"runs/{config.name}")
    return Arguments(
        verb, config, config_given, workdir, values.checkpoint, values.split, values.input, values.output,
        values.engine, values.probabilities, values.format, values.augmented, values.print_config,
        overrides=tuple(_overrides(_joined(rest))), workdir_given=bool(values.workdir),
    )  # fmt: skip


def _overrides(arguments: list[str]) -> Iterator[str]:
    for argument in arguments:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name.startswith("config."):
            yield name.removeprefix("config.")


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


def fail(error: UserError) -> int:
    """Prints a user's mistake and returns its exit status."""
    print(f"error: {error}", file=sys.stderr)
    return 2
