"""What a data set is, and the table of those that this program reads."""

from dataclasses import dataclass

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.builder import FundusBuilder
from pldmlt_jax.data.ddr import DdrGrading, DdrSegmentation
from pldmlt_jax.data.diaretdb1 import Diaretdb1
from pldmlt_jax.data.folder import FolderGrading, FolderSegmentation
from pldmlt_jax.data.idrid import IdridGrading, IdridSegmentation
from pldmlt_jax.data.records import Listing
from pldmlt_jax.data.synthetic import SyntheticGrading, SyntheticSegmentation
from pldmlt_jax.errors import ConfigError


@dataclass(frozen=True)
class DatasetSpec:
    """One set: what its labels are, and the builder that reads it."""

    has_masks: bool
    has_grades: bool
    builder: type[FundusBuilder]

    def listing(self, data: DataConfig) -> Listing:
        """See `FundusBuilder.listing`."""
        return self.builder.listing(self.builder.raw_folder(data))


DATASETS: dict[str, DatasetSpec] = {
    "idrid_s": DatasetSpec(has_masks=True, has_grades=False, builder=IdridSegmentation),
    "idrid_d": DatasetSpec(has_masks=False, has_grades=True, builder=IdridGrading),
    "diaretdb1": DatasetSpec(has_masks=True, has_grades=False, builder=Diaretdb1),
    "ddr_s": DatasetSpec(has_masks=True, has_grades=False, builder=DdrSegmentation),
    "ddr_d": DatasetSpec(has_masks=False, has_grades=True, builder=DdrGrading),
    "folder_s": DatasetSpec(has_masks=True, has_grades=False, builder=FolderSegmentation),
    "folder_d": DatasetSpec(has_masks=False, has_grades=True, builder=FolderGrading),
    "synthetic_s": DatasetSpec(has_masks=True, has_grades=False, builder=SyntheticSegmentation),
    "synthetic_d": DatasetSpec(has_masks=False, has_grades=True, builder=SyntheticGrading),
}


def set_names(name: str) -> list[str]:
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
