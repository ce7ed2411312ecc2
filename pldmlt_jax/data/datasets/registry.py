"""What a data set is, and the table of those that this program reads."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder
from pldmlt_jax.data.datasets.ddr import DdrGrading, DdrSegmentation
from pldmlt_jax.data.datasets.diaretdb1 import Diaretdb1
from pldmlt_jax.data.datasets.folder import FolderGrading, FolderSegmentation
from pldmlt_jax.data.datasets.idrid import IdridGrading, IdridSegmentation
from pldmlt_jax.data.datasets.records import Listing
from pldmlt_jax.data.synthetic.dataset import SyntheticGrading, SyntheticSegmentation
from pldmlt_jax.errors import ConfigError


@dataclass(frozen=True)
class DatasetSpec:
    """One set: what its labels are, and the builder that reads it."""

    has_masks: bool
    has_grades: bool
    builder: type[FundusBuilder]
    released: Mapping[str, int] = field(default_factory=dict)  # photographs by official split, where the set is a release

    def listing(self, data: DataConfig) -> Listing:
        """See `FundusBuilder.listing`."""
        return self.builder.listing(self.builder.raw_folder(data))


DATASETS: dict[str, DatasetSpec] = {
    "idrid_s": DatasetSpec(True, False, IdridSegmentation, released={"train": 54, "test": 27}),
    "idrid_d": DatasetSpec(False, True, IdridGrading, released={"train": 413, "test": 103}),
    "diaretdb1": DatasetSpec(True, False, Diaretdb1, released={"train": 28, "test": 61}),
    "ddr_s": DatasetSpec(True, False, DdrSegmentation, released={"train": 383, "val": 149, "test": 225}),
    "ddr_d": DatasetSpec(False, True, DdrGrading, released={"train": 6835, "val": 2733, "test": 4105}),
    "folder_s": DatasetSpec(True, False, FolderSegmentation),
    "folder_d": DatasetSpec(False, True, FolderGrading),
    "synthetic_s": DatasetSpec(True, False, SyntheticSegmentation),
    "synthetic_d": DatasetSpec(False, True, SyntheticGrading),
}


class SetNames(Collection[str]):
    """Names of the sets of some kind, as DATASETS stands when it is asked: it can be added to."""

    def __init__(self, belongs: Callable[[DatasetSpec], bool]):
        self._belongs = belongs

    def __iter__(self) -> Iterator[str]:
        return (name for name, spec in DATASETS.items() if self._belongs(spec))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)


def parse_set_names(name: str) -> list[str]:
    """The sets that a config field names: one, or several that are pooled, as in `idrid_s+diaretdb1`."""
    return name.split("+")


def dataset_spec(name: str) -> DatasetSpec:
    """The set of a name.

    Raises:
        ConfigError: An unknown name; lists the known ones.
    """
    if name not in DATASETS:
        raise ConfigError("data", f"no data set {name!r}", "one of " + ", ".join(DATASETS), "choose one of them")
    return DATASETS[name]
