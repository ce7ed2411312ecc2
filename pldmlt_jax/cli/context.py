"""What every stage of a run shares: the config, the workdir, the prepared sets and their splits."""

import csv
import dataclasses
import functools
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.config import Config, fields, to_dict
from pldmlt_jax.data.selection import Selection, known_grades, select_graded, select_segmented
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.progress import progress


@dataclasses.dataclass
class Context:
    """One run. Sets are opened when first asked for, and prepared then if they are not."""

    arguments: Arguments

    @property
    def config(self) -> Config:
        return self.arguments.config

    @property
    def workdir(self) -> Path:
        return self.arguments.workdir

    @cached_property
    def segmented(self) -> dict[str, Selection]:
        """Splits of the pixel-labelled set at the network's size."""
        with progress(f"prepare {self.config.data.segmentation}") as task:
            return select_segmented(self.config.data, task)

    @cached_property
    def graded_for_graders(self) -> dict[str, Selection]:
        """Splits of the graded set at the graders' size, without photographs that stage 2 sees."""
        with progress(f"prepare {self.config.data.grading} for the graders") as task:
            return select_graded(self.config.data, self.config.grader.size_px, self.segmented, task)

    @cached_property
    def segmented_for_graders(self) -> dict[str, Selection]:
        """The pixel-labelled set at the graders' size, to be given pseudo-labels.

        No lesion may vanish from these masks, whatever the network is trained on: they are evidence for a grade.
        """
        data = dataclasses.replace(self.config.data, mask_reduction="max")
        with progress(f"prepare {data.segmentation} for the graders") as task:
            return select_segmented(data, task, size_px=self.config.grader.size_px)

    @cached_property
    def known_grades(self) -> dict[Path, int]:
        """True grades of pixel-labelled photographs, where they are known: to evaluate, never to train on."""
        return known_grades(self.segmented, self.graded_for_graders, self.config.data.leakage_distance)

    @cached_property
    def graded_for_network(self) -> dict[str, Selection]:
        """Splits of the graded set at the network's size: to evaluate its grades."""
        with progress(f"prepare {self.config.data.grading} for the network") as task:
            return select_graded(self.config.data, self.config.data.size_px, self.segmented, task)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file of the workdir, whole or not at all."""
        write_json(self.workdir / name, value)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON through a temporary sibling, so that a half-written file is never read as whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1, default=_jsonable) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a CSV whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _jsonable(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def describe_run(context: Context) -> None:
    """Writes the resolved config and the environment."""
    from pldmlt_jax.cli.environment import describe_environment

    context.write_json("config.json", to_dict(context.config))
    context.write_json("environment.json", describe_environment())


SEEN_BY_NETWORK = ("data.size_px", "data.fov_crop", "data.resize", "model.", "loss.target")
"""Beginnings of the fields that a network is trained for; under others it answers something else, often in silence."""


def with_saved_config(arguments: Arguments) -> Arguments:
    """Without `--config`, `evaluate` and `predict` take the config that the network was trained with.

    What the command line sets of it comes on top, and results go beside the checkpoint unless it says where. With
    `--config` the two must agree on what the network was trained for, but for what the command line sets.

    Raises:
        CheckpointError: There is no checkpoint, or it was trained for something else than `--config` says.
    """
    from pldmlt_jax.evaluation.inference import checkpoint_directory, saved_config

    if arguments.verb not in ("evaluate", "predict"):
        return arguments
    directory = checkpoint_directory(Path(arguments.checkpoint or arguments.workdir))
    config = saved_config(directory)
    if arguments.config_given:
        _require_agreement(arguments, config, directory)
        return arguments
    for path in arguments.overrides:
        *parts, name = path.split(".")
        given, target = (functools.reduce(getattr, parts, c) for c in (arguments.config, config))
        setattr(target, name, getattr(given, name))
    workdir = arguments.workdir if arguments.workdir_given else directory.parent
    return dataclasses.replace(arguments, config=config, workdir=workdir)


def _require_agreement(arguments: Arguments, saved: Config, directory: Path) -> None:
    given, trained = dict(fields(arguments.config)), dict(fields(saved))
    differing = [
        f"{name} = {trained[name]!r}, not {given[name]!r}"
        for name in given
        if name.startswith(SEEN_BY_NETWORK) and name not in ("model.weights", *arguments.overrides)
        if given[name] != trained[name]
    ]
    if differing:
        raise CheckpointError(
            directory,
            f"trained with {'; '.join(differing)}",
            "a network trained for what --config says",
            "leave --config away, for the checkpoint has its own; or set these fields on the command line",
        )
