"""The TFDS builder: packs prepared photographs into array_record files."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pldmlt_jax.types import LESIONS, Geometry

NUM_GEOMETRY = len(dataclasses.fields(Geometry))
HASH_BYTES = 32


@dataclasses.dataclass
class FundusConfig(tfds.core.BuilderConfig):
    """One set at one size; its name holds a hash of the raw files and the preparation."""

    image_format: str = "png"
    prepared: dict[str, list[Path]] = dataclasses.field(default_factory=dict)  # split -> prepared files


class FundusPhotographs(tfds.core.GeneratorBasedBuilder):
    """Square fundus photographs with their mask bits, grades and geometry."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=config.image_format),
            "mask_bits": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "image_id": tfds.features.Text(),
            "grade": tfds.features.Scalar(np.int64),
            "true_grade": tfds.features.Scalar(np.int64),
            "evidence_px": tfds.features.Tensor(shape=(len(LESIONS),), dtype=np.int64),
            "reduced_px": tfds.features.Tensor(shape=(len(LESIONS),), dtype=np.int64),
            "fused_px": tfds.features.Tensor(shape=(2,), dtype=np.int64),
            "geometry": tfds.features.Tensor(shape=(NUM_GEOMETRY,), dtype=np.int64),
            "dhash": tfds.features.Tensor(shape=(HASH_BYTES,), dtype=np.uint8),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=None, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        config: Any = self.builder_config
        return {split: self._generate_examples(files) for split, files in config.prepared.items()}

    def _generate_examples(self, files: list[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, path in enumerate(files):
            with np.load(path) as stored:
                example: dict[str, Any] = {name: stored[name] for name in stored.files}
            for name in ("image", "mask_bits"):
                example[name] = example[name].tobytes()
            example["image_id"] = str(example["image_id"])
            yield position, example
