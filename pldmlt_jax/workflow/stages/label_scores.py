"""What became of the labels: the part of `evaluate` that looks at training images."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from pldmlt_jax.config import has_stage_1
from pldmlt_jax.data.loader import stack_batch
from pldmlt_jax.evaluation.inference import TrainedNetwork
from pldmlt_jax.evaluation.metrics.labels import label_quality_metrics
from pldmlt_jax.io.processes import merged, own_share
from pldmlt_jax.method.steps import read_labels
from pldmlt_jax.models.label_update import HIERARCHIES
from pldmlt_jax.types import UNKNOWN_GRADE
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.stages.train import training_labels


def score_labels(context: Context, network: TrainedNetwork) -> dict[str, Any]:
    """What became of the labels that the network has learnt from, by the training images whose true grade is known.

    In batches of the size that it was trained with, for norms of the encoder look at the whole batch: running statistics
    give other features, and so other labels than training had. The last batch is filled up with images of the first ones.
    """
    config, train = context.config, context.segmented["train"]
    table = context.workdir / "pseudo_labels.csv"
    if config.pseudo.source == "none" or (has_stage_1(config) and not table.exists()):
        return {}
    labels = training_labels(train.split, config, table)
    true = {int(i): context.known_grades.get(train.split.records[i].image, UNKNOWN_GRADE) for i in train.indices}
    known = [i for i, grade in sorted(true.items()) if UNKNOWN_GRADE not in (grade, labels.grade[i])]
    ask = network.devices.evaluation(read_labels, method=network.method)
    batch_size = network.devices.own_batch_size(config.train.batch_size)
    soft: dict[int, np.ndarray] = {}
    own = own_share(known)
    filled = np.resize(own, -(-len(own) // batch_size) * batch_size).tolist()
    for start in range(0, len(filled), batch_size):
        chunk = filled[start : start + batch_size]
        batch = stack_batch([(i, train.split[i]) for i in chunk], labels, batch_size)
        soft = dict(zip(chunk, ask(network.state, network.devices.put_batch(batch)), strict=True)) | soft
    if not known:
        return {}
    given = labels.grade[known]
    hierarchy = HIERARCHIES[config.meta.hierarchy if config.meta.enabled else "full"]
    allowed = np.asarray(hierarchy(jnp.asarray(given), jnp.asarray(labels.admissible[known])))
    return label_quality_metrics(np.stack(merged(soft)), given, np.array([true[i] for i in known]), allowed)
