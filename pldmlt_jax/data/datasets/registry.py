"""The table of the data sets that can be read, and the listings of their raw files."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pldmlt_jax.config import SET_SEPARATOR, DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder
from pldmlt_jax.data.datasets.ddr import DdrGrading, DdrSegmentation
from pldmlt_jax.data.datasets.diaretdb1 import Diaretdb1
from pldmlt_jax.data.datasets.folder import FolderGrading, FolderSegmentation
from pldmlt_jax.data.datasets.idrid import IdridGrading, IdridSegmentation
from pldmlt_jax.data.records import Listing
from pldmlt_jax.data.synthetic.dataset import SyntheticGrading, SyntheticSegmentation
from pldmlt_jax.errors import ConfigError


@dataclass(frozen=True)
class DatasetSpec:
    """What labels a data set has, and the builder that reads it."""

    has_masks: bool
    has_grades: bool
    builder: type[FundusBuilder]
    released: Mapping[str, int] = field(default_factory=dict)  # number of images by official split, if it is a release

    def listing(self, data: DataConfig) -> Listing:
        """Lists the raw files; see `FundusBuilder.listing`."""
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
    """A live view of the names in DATASETS whose sets fulfil a condition; sets that are added later appear in it."""

    def __init__(self, belongs: Callable[[DatasetSpec], bool]):
        self._belongs = belongs

    def __iter__(self) -> Iterator[str]:
        return (name for name, spec in DATASETS.items() if self._belongs(spec))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)


SEGMENTATION_SETS = SetNames(lambda spec: spec.has_masks)
"""Pixel-labelled sets: the choices of `data.segmentation`."""

GRADING_SETS = SetNames(lambda spec: spec.has_grades)
"""Graded sets: the choices of `data.grading`."""


def parse_set_names(name: str) -> list[str]:
    """Splits the value of a config field into names of data sets, which are pooled: `idrid_s+diaretdb1`."""
    return name.split(SET_SEPARATOR)


def dataset_spec(name: str) -> DatasetSpec:
    """Looks up a data set by its name.

    Raises:
        ConfigError: The name is unknown; the message lists the known ones.
    """
    if name not in DATASETS:
        raise ConfigError("data", f"no data set {name!r}", "one of " + ", ".join(DATASETS), "choose one of them")
    return DATASETS[name]


class RawListings(dict[str, Listing]):
    """The raw files of each data set by its name, listed at the first access: a run lists each set once.

    Args:
        data: Where the raw files are.
    """

    def __init__(self, data: DataConfig):
        super().__init__()
        self._data = data

    def __missing__(self, name: str) -> Listing:
        self[name] = dataset_spec(name).listing(self._data)
        return self[name]
