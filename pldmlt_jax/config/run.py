"""The config of a whole run."""

import dataclasses
from dataclasses import dataclass

from pldmlt_jax.config.data import MAX_SEED, NO_SET, DataConfig
from pldmlt_jax.config.evaluation import EvaluationConfig, InferenceConfig
from pldmlt_jax.config.method import LossConfig, MetaConfig
from pldmlt_jax.config.model import ModelConfig
from pldmlt_jax.config.pseudo_labels import GraderConfig, PseudoLabelConfig
from pldmlt_jax.config.section import ConfigSection, field
from pldmlt_jax.config.training import CheckpointConfig, OptimConfig, ParallelConfig, TrainConfig


@dataclass(unsafe_hash=True)
class Config(ConfigSection):
    """All settings of a run.

    Example:
        >>> config = Config(name="mine")
        >>> config.train.batch_size = 4
        >>> config.train.batch_size, config.data.segmentation
        (4, 'idrid_s')
    """

    name: str = field("idrid", "Name of the run and of its folder.")
    workdir: str = field("", 'Folder of the run; "" = runs/NAME.')
    seed: int = field(0, "Seed of initial weights and of the order and augmentation of images.", min=0, max=MAX_SEED)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    grader: GraderConfig = dataclasses.field(default_factory=GraderConfig)
    pseudo: PseudoLabelConfig = dataclasses.field(default_factory=PseudoLabelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    meta: MetaConfig = dataclasses.field(default_factory=MetaConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    inference: InferenceConfig = dataclasses.field(default_factory=InferenceConfig)


def has_stage_1(config: Config) -> bool:
    """Returns whether graders label the pixel-labelled images."""
    return config.data.grading != NO_SET and config.pseudo.source == "graders"
