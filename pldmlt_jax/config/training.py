"""Config of training: optimiser, rounds, devices and checkpoints."""

from dataclasses import dataclass

from pldmlt_jax.config.method import OPTIMIZERS
from pldmlt_jax.config.section import ConfigSection, field


@dataclass(unsafe_hash=True)
class OptimConfig(ConfigSection):
    """The optimiser of theta, the weights of the multi-task network."""

    optimizer: str = field("adam", '"adam"; tests compare runs under "sgd".', choices=OPTIMIZERS)
    learning_rate: float = field(5e-5, "Learning rate of the encoder.", min=0, max=10)
    decoder_factor: float = field(
        1.0, "Learning rate of decoder and grading head, relative to the encoder's.", min=0, max=1000
    )
    schedule: str = field("constant", '"constant", or "cosine" over train.max_rounds.', choices=("constant", "cosine"))
    warmup_steps: int = field(
        0, "The learning rate rises linearly from 0 over this many steps.", min=0, max=10**7, unit="steps"
    )
    clip_norm: float = field(0.0, "Global norm that gradients are clipped to; 0 = off.", min=0, max=10**6)
    ema_decay: float = field(
        0.0, "Decay of the exponential moving average of theta that is evaluated; 0 = off.", min=0, max=0.99999
    )


@dataclass(unsafe_hash=True)
class TrainConfig(ConfigSection):
    """Training of stage 2 (Algorithm 1). A round is phase A, which trains theta, then phase B, which updates the labels."""

    batch_size: int = field(2, "Images per step.", min=1, max=4096)
    microbatches: int = field(
        1, "Equal parts of a batch that are computed one after another, to save memory (not on a CPU).", min=1, max=4096
    )
    crop_px: int = field(
        0, "Train on windows of this side, cut from the prepared images; 0 = whole images.", min=0, max=8192, unit="px"
    )
    crop_lesion_share: float = field(0.5, "Share of the windows that are chosen to contain a lesion.", min=0, max=1)
    oversample: float = field(0.0, "As grader.oversample, by pseudo-label.", min=0, max=1)
    init_from: str = field(
        "", 'Workdir, or folder of checkpoints or exported weights, whose network training starts from; "" = none.'
    )
    init_parts: str = field(
        "all",
        'Weights to take from init_from: the "encoder", or "all" that have the same shape.',
        choices=("encoder", "all"),
    )
    unit: str = field("epoch", "Unit of theta_units and label_units.", choices=("epoch", "step"))
    theta_units: int = field(1, "Length of phase A, in train.unit.", min=1, max=10**6)
    label_units: int = field(1, "Length of phase B, in train.unit.", min=1, max=10**6)
    max_rounds: int = field(100, "Most rounds of Algorithm 1.", min=1, max=10**6, unit="rounds")
    max_minutes: float = field(
        0.0, "Stop at the end of the round in which this time is over; 0 = no limit.", min=0, max=10**6, unit="minutes"
    )
    monitor: str = field(
        "loss",
        'Score of early stopping and of the best checkpoint: "loss" = L_S + beta L_C(pseudo-label), or "dice".',
        choices=("loss", "dice"),
    )
    patience_rounds: int = field(20, "Stop after this many rounds without a better score.", min=1, max=10**6, unit="rounds")
    min_delta: float = field(1e-4, "A score counts as better if it improves by this much.", min=0, max=10)
    eval_every_rounds: int = field(
        1, "Validate and save a checkpoint after this many rounds.", min=1, max=10**6, unit="rounds"
    )
    log_every_steps: int = field(
        10, "Log metrics to log.jsonl and TensorBoard after this many steps of a phase.", min=1, max=10**6, unit="steps"
    )
    save_every_minutes: float = field(
        10.0,
        "Also save within a round this often, graders too; 0 = only after a validation.",
        min=0,
        max=10**6,
        unit="minutes",
    )
    on_nonfinite: str = field(
        "stop",
        'At a NaN or infinite loss or gradient, graders\' too: "stop", or "skip" the step and count it.',
        choices=("stop", "skip"),
    )


@dataclass(unsafe_hash=True)
class ParallelConfig(ConfigSection):
    """Devices and processes of the machine. Results do not depend on them, except for rounding. See docs/parallel.md."""

    mode: str = field(
        "mesh",
        '"mesh": jit over all devices; "pmap": each device computes its part of a batch, in one process.',
        choices=("mesh", "pmap"),
    )
    num_devices: int = field(
        0, "Devices of each process; 0 = all, in training as many as divide the batch.", min=0, max=65536
    )
    shard_params: bool = field(False, '"mesh": split kernels and their optimiser state over the devices.')
    coordinator: str = field(
        "", 'HOST:PORT of the first of several processes, the same for all; "" = one process, or what SLURM sets.'
    )
    num_processes: int = field(
        1, "Number of processes. Each runs the same command, except for process_id.", min=1, max=65536
    )
    process_id: int = field(0, "Number of this process, counted from 0.", min=0, max=65535)


@dataclass(unsafe_hash=True)
class CheckpointConfig(ConfigSection):
    """Reading of checkpoints."""

    fallback: bool = field(False, "Move a damaged checkpoint aside and resume from an earlier one.")
