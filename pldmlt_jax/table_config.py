"""A table of runs: rows of configs, each trained on the same folds and seeds, for `compare`.

A file under `configs/tables/` defines `get_table() -> Table` and sets only values. See docs/compare.md.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pldmlt_jax.config import Config

PUBLISHED = {"mDice": "seg/micro_bg/dice", "mIOU": "seg/micro_bg/iou", "Accuracy": "grade/accuracy"}
"""The paper's name of a figure -> the figure of ours that it stands beside; that mDice is `micro_bg` is a reading."""

PARTS = ("network", "graders")
"""What a row trains and scores: the multi-task network, stage 1 included, or one grader of stage 1 alone."""


@dataclass(frozen=True)
class Row:
    """One method of a table."""

    name: str  # of its folder
    config: Config  # its fold, seed and name are set by the table
    what: str = ""  # what it is, for people
    part: str = "network"  # one of PARTS
    starts_from: str = ""  # an earlier row, whose network of the same fold and seed this one's starts from
    published: Mapping[str, float] = field(default_factory=dict)  # in %, as printed, by the names of PUBLISHED


@dataclass(frozen=True)
class Table:
    """Rows that are compared, and what they are trained on."""

    name: str
    title: str
    rows: tuple[Row, ...]
    folds: tuple[int, ...] = (0,)  # each is held out once: `data.fold`
    seeds: tuple[int, ...] = (0,)
    reference: str = ""  # the row that the others are paired with; "" = the last
    published_in: str = ""  # where the published figures are from

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    @property
    def reference_row(self) -> str:
        return self.reference or self.rows[-1].name


@dataclass(frozen=True)
class Cell:
    """One run of a table, in a workdir of its own."""

    row: Row
    fold: int
    seed: int
    workdir: Path
    starts_from: Path | None = None  # the workdir that `row.starts_from` is about

    @property
    def label(self) -> str:
        return f"{self.row.name}, fold {self.fold}, seed {self.seed}"

    @property
    def config(self) -> Config:
        """The row's config, with what the table sets of it."""
        config = self.row.config
        data, train = dataclasses.replace(config.data, fold=self.fold), config.train
        if self.starts_from is not None:
            train = dataclasses.replace(train, init_from=str(self.starts_from))
        return dataclasses.replace(config, name=self.row.name, seed=self.seed, data=data, train=train)


def cells(table: Table, workdir: Path) -> Iterator[Cell]:
    """Every cell, row by row, and so after the one that it starts from."""
    for row in table.rows:
        for fold in table.folds:
            for seed in table.seeds:
                name = f"fold{fold}_seed{seed}"
                start = workdir / row.starts_from / name if row.starts_from else None
                yield Cell(row, fold, seed, workdir / row.name / name, start)
