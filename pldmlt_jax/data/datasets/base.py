"""The base class of the TFDS builders, which turn a folder of raw images into array_record files.

The builder of a data set says where its raw files are and reads their layout. `store.open_prepared` uses it; TFDS alone does
too:

    builder = IdridSegmentation(config=FundusConfig(size_px=512), data_dir="DIR")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="data/IDRiD"), file_format="array_record"
    )
    samples = builder.as_data_source(split="train")

Used so, it leaves the prepared files in `data.cache_dir`; only `open_prepared` removes what is packed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.difference_hash import HASH_SIDE
from pldmlt_jax.data.preprocessing.prepare import load_prepared, preparation_fields, prepare_listing
from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.types import EVIDENCE, LESIONS, Geometry

NUM_GEOMETRY = len(dataclasses.fields(Geometry))
HASH_BYTES = HASH_SIDE**2 // 8


@dataclasses.dataclass
class FundusConfig(tfds.core.BuilderConfig):
    """The size of the prepared images and the way they are prepared.

    Attributes:
        name: TFDS finds a packed set by its name alone, so `open_prepared` puts a hash of the raw files into it. The default
            is made from the size, the preparation and the synthetic images' config.
        size_px: Side of the square.
        data: How to prepare.
        prepared: Images and their prepared files by split; None: the builder lists the raw files and prepares them.
    """

    name: str = ""
    size_px: int = 1024
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    prepared: Mapping[str, list[tuple[RawRecord, Path]]] | None = None

    def __post_init__(self) -> None:
        facts = json.dumps([preparation_fields(self.data), dataclasses.asdict(self.data.synthetic)]).encode()
        self.name = self.name or f"{self.size_px}-{hashlib.sha256(facts).hexdigest()[:12]}"


class FundusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds a set of square fundus images with mask bits, grades and geometry; each data set has a subclass."""

    VERSION = tfds.core.Version("3.0.0")
    pkg_dir_path = tfds.core.Path(__file__).parent  # TFDS finds none for a builder in a notebook or a module by itself
    CITATION = ""
    LICENCE = ""

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        """Returns the folder of the raw files by the config; TFDS calls it `manual_dir`."""
        raise NotImplementedError

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        """Lists the images by official split, and what is wrong with single files.

        Raises:
            DataError: The folder does not have the layout of the set.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=config.data.image_format),
            "mask_bits": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "image_id": tfds.features.Text(),
            "grade": tfds.features.Scalar(np.int64),
            "true_grade": tfds.features.Scalar(np.int64),
            "evidence_px": tfds.features.Tensor(shape=(len(EVIDENCE),), dtype=np.int64),
            "lesion_px": tfds.features.Tensor(shape=(len(LESIONS),), dtype=np.int64),
            "reduced_px": tfds.features.Tensor(shape=(len(LESIONS),), dtype=np.int64),
            "components": tfds.features.Tensor(shape=(len(LESIONS), 3), dtype=np.int64),
            "fused_px": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "geometry": tfds.features.Tensor(shape=(NUM_GEOMETRY,), dtype=np.int64),
            "dhash": tfds.features.Tensor(shape=(HASH_BYTES,), dtype=np.uint8),
        }
        info = self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=None,
            disable_shuffling=True,
            citation=self.CITATION,
            license=self.LICENCE,
        )
        info.initialize_from_bucket = lambda: None  # nothing of ours is there; it only leaves an empty folder in /tmp
        return info

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        config: Any = self.builder_config
        prepared = config.prepared
        if prepared is None:
            synthetic = self.MANUAL_DOWNLOAD_INSTRUCTIONS is None
            folder = self.raw_folder(config.data) if synthetic else Path(dl_manager.manual_dir)
            prepared = prepare_listing(self.listing(folder), config.data, config.size_px)
        return {split: self._generate_examples(pairs) for split, pairs in prepared.items()}

    def _generate_examples(self, prepared: list[tuple[RawRecord, Path]]) -> Iterator[tuple[int, dict[str, Any]]]:
        config: Any = self.builder_config
        for position, (record, path) in enumerate(prepared):
            example = load_prepared(record, path, config.data, config.size_px)
            for name in ("image", "mask_bits"):
                example[name] = example[name].tobytes()
            example["image_id"] = str(example["image_id"])
            yield position, example
