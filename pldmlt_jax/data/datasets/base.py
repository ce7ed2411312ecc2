"""What the TFDS builders share: raw photographs in a folder -> array_record files.

A builder of a set says where its raw files are and how to read their layout. It serves `open_prepared`, and anyone who
uses TFDS directly:

    builder = IdridSegmentation(config=FundusConfig(size_px=512), data_dir="DIR")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="data/IDRiD"), file_format="array_record"
    )
    samples = builder.as_data_source(split="train")
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.records import Listing
from pldmlt_jax.data.preprocessing.prepare import preparation_fields, prepare_listing
from pldmlt_jax.data.splits.near_duplicates import HASH_SIDE
from pldmlt_jax.types import EVIDENCE, LESIONS, Geometry

NUM_GEOMETRY = len(dataclasses.fields(Geometry))
HASH_BYTES = HASH_SIDE**2 // 8


@dataclasses.dataclass
class FundusConfig(tfds.core.BuilderConfig):
    """One size and one way to prepare.

    Without a name it is called after both, and after what is drawn. Raw files that changed want a name of their own, for
    TFDS looks at the name alone: `open_prepared` puts their hash into it.
    """

    name: str = ""
    size_px: int = 1024
    data: DataConfig = dataclasses.field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        facts = json.dumps([preparation_fields(self.data), dataclasses.asdict(self.data.synthetic)]).encode()
        self.name = self.name or f"{self.size_px}-{hashlib.sha256(facts).hexdigest()[:12]}"


class FundusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Square fundus photographs with their mask bits, grades and geometry. Builders of sets derive from it."""

    VERSION = tfds.core.Version("3.0.0")
    pkg_dir_path = tfds.core.Path(__file__).parent  # TFDS finds none for a builder in a notebook or a module by itself
    CITATION = ""
    LICENCE = ""

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        """Where the raw files are by the config, which is TFDS' `manual_dir`."""
        raise NotImplementedError

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        """The photographs by official split, and what is wrong with single files.

        Raises:
            DataError: The folder as a whole is not as the set's layout says.
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
        drawn = self.MANUAL_DOWNLOAD_INSTRUCTIONS is None  # then there is nothing to be got by hand
        folder = self.raw_folder(config.data) if drawn else Path(dl_manager.manual_dir)
        readable = prepare_listing(self.listing(folder), config.data, config.size_px)
        return {split: self._generate_examples(files) for split, files in readable.files.items()}

    def _generate_examples(self, files: list[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, path in enumerate(files):
            with np.load(path) as stored:
                example: dict[str, Any] = {name: stored[name] for name in stored.files}
            for name in ("image", "mask_bits"):
                example[name] = example[name].tobytes()
            example["image_id"] = str(example["image_id"])
            yield position, example
