"""Config of stage 1: the graders and the pseudo-labels that they give."""

from dataclasses import dataclass

from pldmlt_jax.config.section import ConfigSection, field


@dataclass(unsafe_hash=True)
class GraderConfig(ConfigSection):
    """Stage 1: the graders whose predictions become the pseudo-labels."""

    architectures: tuple[str, ...] = field(
        ("resnext50_32x4d", "resnext101_32x8d"), "One grader each.", choices="pldmlt_jax.models.build:GRADERS"
    )
    weights: tuple[str, ...] = field(
        ("", ""), 'Initial weights of each grader, as model.weights; "encoder" = the same as model.weights.'
    )
    base_filters: int = field(64, "Width of the stem (full size: 64).", min=16, max=1024)
    max_blocks: int = field(0, "Most blocks per stage; 0 = the architecture's depth.", min=0, max=100)
    nasnet_momentum: float = field(
        0.9997,
        "Decay of NASNet's running statistics. The default is Keras'; it is too slow for a few thousand steps.",
        min=0,
        max=0.99999,
    )
    frozen_stages: int = field(0, "Leading encoder stages that are not trained.", min=0, max=5)
    size_px: int = field(512, "Side of the square image that graders see.", min=32, max=8192, unit="px")
    batch_size: int = field(8, "Images per step.", min=1, max=4096)
    epochs: int = field(30, "Most epochs.", min=1, max=10**5)
    patience_epochs: int = field(
        8, "Stop after this many epochs without a better validation kappa.", min=1, max=10**5, unit="epochs"
    )
    learning_rate: float = field(1e-4, "Initial rate of Adam; it decays to 0 along a cosine.", min=0, max=10)
    weight_decay: float = field(1e-4, "Weight decay; it has no effect with frozen stages.", min=0, max=10)
    class_weights: bool = field(False, "Weigh grades by their inverse frequency.")
    oversample: float = field(
        0.0, "How much rarer grades are oversampled: 0 = not at all, 1 = all grades equally often.", min=0, max=1
    )
    focal_alpha: float = field(0.25, "Weight alpha of the focal loss (Eq. 2).", min=1e-6, max=1)
    focal_gamma: float = field(2.0, "Exponent gamma of the focal loss (Eq. 2).", min=0, max=10)


@dataclass(unsafe_hash=True)
class PseudoLabelConfig(ConfigSection):
    """How pseudo-labels are made from the graders' predictions."""

    source: str = field(
        "graders",
        '"graders": stage 1; "given": the pixel-labelled set\'s own grades; "none": no grades for it (MTUnet).',
        choices=("graders", "given", "none"),
    )
    ensemble: str = field(
        "most_confident",
        'The paper\'s "most_confident" grader, or the "mean" of all graders\' probabilities.',
        choices="pldmlt_jax.method.pseudo_labels:ENSEMBLES",
    )
    temperature: bool = field(
        False, "Scale each grader's logits by a temperature first, which is fitted on its validation images."
    )
    refine: bool = field(True, "Refine the pseudo-labels by Grad-CAM and the lesion masks.")
    dilation_share: float = field(
        0.02, "Lesions are dilated before the comparison by this share of the field of view's width.", min=0, max=0.5
    )
    candidate_ratio: float = field(
        0.5, "A grade stays a candidate if its map has at least this share of the best map's agreement.", min=0, max=1
    )
    coverage_top: float = field(
        0.2, "Coverage is the share of lesion pixels inside this top share of the map.", min=0.001, max=1
    )
    disc_rejection: bool = field(True, "Reject grades whose map lies on the optic disc.")
