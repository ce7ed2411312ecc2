"""Config of evaluation and prediction."""

from dataclasses import dataclass

from pldmlt_jax.config.section import ConfigSection, field


@dataclass(unsafe_hash=True)
class EvaluationConfig(ConfigSection):
    """Scoring of a trained network."""

    batch_size: int = field(4, "Images per batch, in validation and prediction as well.", min=1, max=4096)
    threshold: float = field(0.5, "Threshold of lesion probabilities, in metrics that need one.", min=0, max=1)
    original_size: bool = field(True, "Also score at the original size, against the original masks.")
    num_examples: int = field(6, "Images shown in the report.", min=0, max=1000)


@dataclass(unsafe_hash=True)
class InferenceConfig(ConfigSection):
    """How `evaluate`, `predict` and `export` run a trained network.

    Example:
        >>> InferenceConfig(mode="tiles", tta="flips").tile_px
        512
    """

    mode: str = field(
        "whole",
        'The "whole" prepared image at once, or overlapping "tiles" of it, which need less memory.',
        choices=("whole", "tiles"),
    )
    tile_px: int = field(512, "Side of a tile.", min=32, max=8192, unit="px")
    overlap: float = field(0.5, "Smallest overlap of neighbouring tiles, as a share of their side.", min=0, max=0.9)
    tta: str = field(
        "none",
        'Test-time augmentation: the mean over "flips" (4 views) or "dihedral" flips and turns by 90 degrees (8 views).',
        choices="pldmlt_jax.evaluation.tta:VIEWS",
    )
    threshold: float = field(
        0.0,
        "Threshold of predict's masks; 0 = each lesion's operating point, chosen on the validation images.",
        min=0,
        max=1,
    )
    engine_dtype: str = field(
        "float32",
        'Data type of --engine=openvino; "bfloat16" needs a processor that has it.',
        choices=("float32", "bfloat16"),
    )
