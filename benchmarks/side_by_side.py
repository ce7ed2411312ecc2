"""Trains segmentation_models.pytorch's VGG16-U-Net like a run of ours: same start, batches, loss, rates and steps.

    python -m benchmarks.side_by_side --run=runs/side_by_side --output=runs/side_by_side_torch

`--run` is a finished run of configs/experiments/side_by_side.py. The trained weights are written in our own format, so that
`python main.py evaluate --checkpoint=OUTPUT` scores them like ours. The two networks are the same function of the same
weights, which is checked at the end. Needs requirements-bench.txt.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from benchmarks.pytorch import DECODER_FILTERS, import_smp, normalised
from benchmarks.smp_names import smp_name, with_smp_weights
from pldmlt_jax.config import Config, to_dict
from pldmlt_jax.data.loader import train_batches, unknown_labels
from pldmlt_jax.evaluation.inference import TrainedNetwork, saved_config
from pldmlt_jax.io.files import write_json
from pldmlt_jax.method.losses import DICE_SMOOTH
from pldmlt_jax.method.state import make_method
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS, write_weights
from pldmlt_jax.training.checkpoint import CONFIG
from pldmlt_jax.types import LESIONS, MASK_BITS, Batch
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.stages.train import make_rounds, make_start_state


def main() -> None:
    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    config = saved_config(arguments.run / "checkpoints")
    context = Context(RunOptions(config, arguments.output, "train"))
    training = context.segmented["train"]
    steps = make_rounds(config, len(training.indices)).theta_steps
    method = make_method(config, steps)
    state = make_start_state(context, method)
    variables = {"params": state.network.params, "batch_stats": state.network.batch_stats}
    batches = train_batches(
        training.split,
        training.indices,
        unknown_labels(training.split),
        batch_size=config.train.batch_size,
        config=config.data,
        seed=config.seed,
    )
    torch, smp = import_smp()
    model = smp.Unet("vgg16", encoder_weights=None, decoder_channels=DECODER_FILTERS, classes=len(LESIONS))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in smp_tensors(variables).items()}, strict=False)
    with (arguments.output / "log.jsonl").open("w", encoding="utf-8") as log:
        train(torch, model, batches, config, arguments.steps or steps, steps, log)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    trained = with_smp_weights(variables, tensors, "vgg16", "unet")
    state = dataclasses.replace(state, network=dataclasses.replace(state.network, **trained))
    network = TrainedNetwork(config, state, steps, arguments.output)
    image = training.split[int(training.indices[0])].image[None]
    print(
        f"the same weights in both networks: logits differ by {difference(torch, model, network, image):.1e} of the largest"
    )
    write_weights(arguments.output / WEIGHTS, network.arrays, network.step)
    write_json(arguments.output / CONFIG, to_dict(config))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="workdir of our own training")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights and log.jsonl")
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps, for a trial")
    return parser.parse_args()


def smp_tensors(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns our variables under smp's names and in its layout, without the grading head, which smp does not have."""
    leaves = traverse_util.flatten_dict(jax.device_get(variables))
    arrays = {smp_name(path, "vgg16", "unet"): np.asarray(leaf) for path, leaf in leaves.items() if path[1] != "head"}
    return {name: np.array(a.transpose(3, 2, 0, 1) if a.ndim == 4 else a) for name, a in arrays.items()}


def train(torch: Any, model: Any, batches: Iterator[Batch], config: Config, stop: int, total_steps: int, log: Any) -> None:
    """Trains as `training/loop.py` and `method/optimizers.py` do: Adam, faster decoder and head, cosine schedule."""
    rate, factor = config.optim.learning_rate, config.optim.decoder_factor
    model = model.to(memory_format=torch.channels_last).train()
    encoder = {id(p) for p in model.encoder.parameters()}
    others = [p for p in model.parameters() if id(p) not in encoder]
    optimizer = torch.optim.Adam(
        [{"params": list(model.encoder.parameters()), "lr": rate}, {"params": others, "lr": rate * factor}]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / total_steps)))
    start = time.monotonic()
    for step in range(1, stop + 1):
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        logits = model(normalised(torch, np.asarray(batch.image), torch.channels_last, "cpu"))
        loss = segmentation_loss(torch, logits, batch)
        loss.backward()
        optimizer.step()
        schedule.step()
        row = {"step": step, "loss": loss.item(), "seconds": time.monotonic() - start}
        log.write(json.dumps(row) + "\n")
        if step % 10 == 1:
            print(f"  step {step} of {stop}, loss {row['loss']:.4f}, {row['seconds']:.0f} s", flush=True)


def segmentation_loss(torch: Any, logits: Any, batch: Batch) -> Any:
    """Computes soft Dice + cross-entropy of independent channels over valid pixels, independently of `method/losses.py`."""
    bits = torch.from_numpy(np.asarray(batch.mask_bits).astype(np.int64))
    truth = torch.stack([(bits & MASK_BITS[lesion]) != 0 for lesion in LESIONS], dim=1).float()
    valid = ((bits & MASK_BITS["valid"]) != 0)[:, None].float()
    p, pixels = logits.sigmoid() * valid, (0, 2, 3)
    overlap = (p * truth * valid).sum(pixels)
    dice = (2 * overlap + DICE_SMOOTH) / (p.sum(pixels) + (truth * valid).sum(pixels) + DICE_SMOOTH)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1, keepdim=True)
    return (1 - dice).mean() + (entropy * valid).sum() / valid.sum()


def difference(torch: Any, model: Any, network: TrainedNetwork, image: np.ndarray) -> float:
    """Returns the largest difference of the logits of an image, relative to the largest logit."""
    with torch.inference_mode():
        theirs = model.eval()(normalised(torch, image, torch.channels_last, "cpu")).permute(0, 2, 3, 1).numpy()
    output: Any = network.module.apply(network.variables, image, False)
    ours = np.asarray(output.segmentation_logits)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


if __name__ == "__main__":
    main()
