"""Config of the method: the loss and the label update."""

from dataclasses import dataclass

from pldmlt_jax.config.section import ConfigSection, field

OPTIMIZERS = ("sgd", "adam")


@dataclass(unsafe_hash=True)
class LossConfig(ConfigSection):
    """The loss of the multi-task network, L = L_S + beta L_C (Eq. 3)."""

    target: str = field(
        "fused",
        '"fused" (background and lesion), "lesions" (four sigmoids) or "exclusive" (background and four lesions).',
        choices="pldmlt_jax.method.losses:TARGETS",
    )
    segmentation: str = field(
        "focal",
        'L_S. The paper\'s is "focal"; "dice_ce" is recommended.',
        choices="pldmlt_jax.method.losses:SEGMENTATION_LOSSES",
    )
    class_weights: tuple[float, ...] = field((), "Weight of each segmentation channel in L_S; () = all 1.", min=0, max=1000)
    absent_overlap: bool = field(
        True, 'Whether "dice", "dice_ce" and "focal_tversky" include lesions that are absent from the batch.'
    )
    missed_weight: float = field(
        0.7, '"focal_tversky": weight w of missed lesion pixels; false ones have 1 - w.', min=0, max=1
    )
    tversky_gamma: float = field(0.75, '"focal_tversky": power of 1 - index; 1 = Tversky loss.', min=0.1, max=10)
    grading: bool = field(True, "Whether L includes L_C; without it, L = L_S (ablation row 1).")
    beta: float = field(0.8, "Weight of the grading loss L_C.", min=0, max=1000)
    self_training: float = field(
        0.0,
        "MTUnet: weight of L_S on truly graded images, against the network's own masks; 0 = off.",
        min=0,
        max=1000,
    )
    graded_weight: float = field(
        0.0, "Weight of a grading loss on truly graded images, which the paper's L lacks; 0 = off.", min=0, max=1000
    )
    alpha: float = field(0.25, "Weight alpha of the focal losses (Eq. 2).", min=1e-6, max=1)
    gamma: float = field(2.0, "Exponent gamma of the focal losses (Eq. 2).", min=0, max=10)
    reduction: str = field(
        "keras",
        '"keras": mean over pixels and classes (literal); "pixel_mean": mean over pixels.',
        choices=("keras", "pixel_mean"),
    )
    binary_alpha: str = field(
        "retinanet",
        'Target "lesions" only. "retinanet": positives weigh alpha, negatives 1 - alpha; "keras": both weigh alpha.',
        choices="pldmlt_jax.method.losses:BINARY_ALPHAS",
    )


@dataclass(unsafe_hash=True)
class MetaConfig(ConfigSection):
    """The label-update network and its meta step (Algorithm 1, lines 15 to 22)."""

    enabled: bool = field(True, "Update the pseudo-labels; without it they stay as they are (ablation row 2).")
    loss: str = field(
        "paper",
        'Meta loss J. "trusted" is computed on truly graded images and is not in the paper.',
        choices="pldmlt_jax.method.virtual_step:META_LOSSES",
    )
    gradient: str = field(
        "exact",
        'Gradient of J: "exact", or "none": the label network stays as it starts.',
        choices="pldmlt_jax.method.virtual_step:META_GRADIENTS",
    )
    inner_optimizer: str = field(
        "sgd", 'Optimiser of the virtual step to theta*; "adam" starts from theta\'s own state.', choices=OPTIMIZERS
    )
    inner_learning_rate: float = field(5e-5, "Learning rate epsilon of the virtual step (line 20).", min=0, max=100)
    optimizer: str = field("sgd", 'Optimiser of theta_1; the literal one is "sgd".', choices=OPTIMIZERS)
    learning_rate: float = field(5e-5, "Learning rate vartheta of theta_1 (line 21).", min=0, max=100)
    hidden: tuple[int, ...] = field((256,), "Widths of the label-update network's hidden layers.", min=1, max=65536)
    kappa: float = field(4.0, "Initial logit of the pseudo-label.", min=0, max=100)
    label_init: str = field(
        "pseudo_label",
        '"pseudo_label", or the literal "random", which has no kappa term.',
        choices=("pseudo_label", "random"),
    )
    hierarchy: str = field(
        "full",
        'Grades that a label may take (psi): all ("full"), neighbours of the pseudo-label ("ordinal"), or what the '
        'lesion masks admit ("evidence").',
        choices="pldmlt_jax.models.label_update:HIERARCHIES",
    )
    softmax: str = field(
        "masked",
        '"masked", or "literal": Eq. 4 as printed, which leaves masked grades a share.',
        choices="pldmlt_jax.models.label_update:SOFTMAXES",
    )
    entropy_weight: float = field(0.2, 'Weight lambda of the entropy in meta loss "maxl".', min=0, max=1000)
    mean_decay: float = field(
        0.9, 'Decay of the running mean of the soft labels, for "maxl" with small batches.', min=0, max=0.99999
    )
