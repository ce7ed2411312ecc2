"""What a data set is, and the table of those that this program reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data import idrid
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.errors import ConfigError


@dataclass(frozen=True)
class DatasetSpec:
    """One set: where its raw files are, and what they tell."""

    title: str
    has_masks: bool
    has_grades: bool
    records: Callable[[DataConfig], Mapping[str, list[RawRecord]]]  # "train" and, where it is on disk, "test"
    citation: str
    licence: str


def _idrid_root(data: DataConfig) -> Path:
    return Path(data.idrid_root or Path(data.root) / "IDRiD")


def _synthetic_root(data: DataConfig) -> Path:
    from pldmlt_jax.data.synthetic import ensure_written  # draws the photographs the first time

    return ensure_written(data.synthetic, data.cache_dir)


_IDRID = {
    "citation": "Porwal, Pachade, Kamble et al.: Indian Diabetic Retinopathy Image Dataset (IDRiD). Data 3(3), 25, 2018",
    "licence": "CC BY 4.0",
}
_SYNTHETIC = {"citation": "drawn by this program (data/synthetic.py)", "licence": "Apache-2.0"}

DATASETS: dict[str, DatasetSpec] = {
    "idrid_s": DatasetSpec(
        "IDRiD, segmentation", True, False, lambda data: idrid.segmentation_records(_idrid_root(data)), **_IDRID
    ),
    "idrid_d": DatasetSpec(
        "IDRiD, disease grading", False, True, lambda data: idrid.grading_records(_idrid_root(data)), **_IDRID
    ),
    "synthetic_s": DatasetSpec(
        "synthetic, segmentation",
        True,
        False,
        lambda data: idrid.segmentation_records(_synthetic_root(data)),
        **_SYNTHETIC,
    ),
    "synthetic_d": DatasetSpec(
        "synthetic, grading", False, True, lambda data: idrid.grading_records(_synthetic_root(data)), **_SYNTHETIC
    ),
}


def dataset_spec(name: str) -> DatasetSpec:
    """The set of a name.

    Raises:
        ConfigError: An unknown name; lists the known ones.
    """
    if name not in DATASETS:
        raise ConfigError("data", f"no data set {name!r}", "one of " + ", ".join(DATASETS), "choose one of them")
    return DATASETS[name]
