"""What every stage of a run shares: the config, the workdir, the prepared sets and their splits."""

import csv
import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.config import Config, to_dict
from pldmlt_jax.data.selection import Selection, known_grades, select_graded, select_segmented
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
        """The pixel-labelled set at the graders' size, to be given pseudo-labels."""
        with progress(f"prepare {self.config.data.segmentation} for the graders") as task:
            return select_segmented(self.config.data, task, size_px=self.config.grader.size_px)

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


def start(arguments: Arguments) -> Context:
    """A context whose workdir holds the resolved config and the environment."""
    from pldmlt_jax.cli.environment import describe_environment

    context = Context(arguments)
    context.write_json("config.json", to_dict(arguments.config))
    context.write_json("environment.json", describe_environment())
    return context
