"""A comparison table: rows of configs, each trained on the same folds and seeds by `compare`.

A file under `configs/tables/` defines `get_table() -> Table` and sets only values. See docs/compare.md.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pldmlt_jax.config import Config

PUBLISHED = {"mDice": "seg/micro_bg/dice", "mIOU": "seg/micro_bg/iou", "Accuracy": "grade/accuracy"}
"""The paper's name of a metric -> our metric of the same meaning. That mDice is `micro_bg` is our reading of the paper."""

PARTS = ("network", "graders")
"""What a row trains and scores: the multi-task network with its stage 1, or a single stage 1 grader."""


@dataclass(frozen=True)
class Row:
    """One method of a table."""

    name: str  # also the name of its folder
    config: Config  # the table sets its fold, seed and name
    what: str = ""  # a description for readers
    part: str = "network"  # one of PARTS
    starts_from: str = ""  # an earlier row: training starts from its network of the same fold and seed
    published: Mapping[str, float] = field(default_factory=dict)  # key of PUBLISHED -> published value in %


@dataclass(frozen=True)
class Table:
    """Methods to compare, and the folds and seeds that each is trained with."""

    name: str
    title: str
    rows: tuple[Row, ...]
    folds: tuple[int, ...] = (0,)  # values of `data.fold`
    seeds: tuple[int, ...] = (0,)
    reference: str = ""  # name of the row that the others are compared with; "" = the last
    published_in: str = ""  # source of the published values

    def row(self, name: str) -> Row:
        """Returns the row of this name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def reference_row(self) -> str:
        """Name of the row that the others are compared with."""
        return self.reference or self.rows[-1].name


@dataclass(frozen=True)
class Run:
    """One run of a table, in a workdir of its own."""

    row: Row
    fold: int
    seed: int
    workdir: Path
    starts_from: Path | None = None  # workdir of the run of `row.starts_from`

    @property
    def label(self) -> str:
        """Row, fold and seed as text."""
        return f"{self.row.name}, fold {self.fold}, seed {self.seed}"

    @property
    def config(self) -> Config:
        """The row's config with this run's name, fold, seed and starting point."""
        config = self.row.config
        data, train = dataclasses.replace(config.data, fold=self.fold), config.train
        if self.starts_from is not None:
            train = dataclasses.replace(train, init_from=str(self.starts_from))
        return dataclasses.replace(config, name=self.row.name, seed=self.seed, data=data, train=train)


def list_runs(table: Table, workdir: Path) -> list[Run]:
    """Lists every run of a table, row by row; a run comes after the one that it starts from.

    Args:
        table: The table.
        workdir: The table's folder; each run has its own folder in it.
    """
    runs = []
    for row in table.rows:
        for fold in table.folds:
            for seed in table.seeds:
                name = f"fold{fold}_seed{seed}"
                start = workdir / row.starts_from / name if row.starts_from else None
                runs.append(Run(row, fold, seed, workdir / row.name / name, start))
    return runs
