"""Every field of a run, declared once: name, type, default, range, unit, choices and meaning.

A file under `configs/` defines `get_config() -> Config` and sets only values. Defaults are the paper's own setting where
the paper gives one ("literal"), else this project's choice. `config_checks.validate_config` reports every error at once.
"""

from pldmlt_jax.config.data import NO_SET, SET_SEPARATOR, AugmentConfig, DataConfig, SyntheticConfig
from pldmlt_jax.config.evaluation import EvaluationConfig, InferenceConfig
from pldmlt_jax.config.method import LossConfig, MetaConfig
from pldmlt_jax.config.model import ModelConfig
from pldmlt_jax.config.pseudo_labels import GraderConfig, PseudoLabelConfig
from pldmlt_jax.config.run import Config, has_stage_1
from pldmlt_jax.config.saved import RETIRED_FIELDS, RetiredField, from_dict, to_dict
from pldmlt_jax.config.section import ConfigSection, FieldInfo, Preparation, field, field_infos, fields, frozen
from pldmlt_jax.config.training import CheckpointConfig, OptimConfig, ParallelConfig, TrainConfig

__all__ = [
    "NO_SET",
    "RETIRED_FIELDS",
    "SET_SEPARATOR",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "ConfigSection",
    "DataConfig",
    "EvaluationConfig",
    "FieldInfo",
    "GraderConfig",
    "InferenceConfig",
    "LossConfig",
    "MetaConfig",
    "ModelConfig",
    "OptimConfig",
    "ParallelConfig",
    "Preparation",
    "PseudoLabelConfig",
    "RetiredField",
    "SyntheticConfig",
    "TrainConfig",
    "field",
    "field_infos",
    "fields",
    "from_dict",
    "frozen",
    "has_stage_1",
    "to_dict",
]
