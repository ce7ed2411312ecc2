"""A table of the tiny config: a network of each kind, with and without grades, and a grader; on one fold of two.

Purpose:   the table of the tests and scripts of this folder.
Launch:    python main.py compare --config=tests/faults/tiny_table.py --workdir=DIR --config.data.cache_dir=DIR
"""

from dataclasses import replace

from pldmlt_jax.config import NO_SET
from pldmlt_jax.table import Row, Table
from tests.faults import tiny


def get_table() -> Table:
    whole = tiny.get_config()
    whole.data.split = "folds"
    whole.data.num_folds = 2
    lesions = replace(
        whole,
        data=replace(whole.data, grading=NO_SET),
        loss=replace(whole.loss, grading=False),
        meta=replace(whole.meta, enabled=False),
    )
    tuned = replace(lesions, train=replace(lesions.train, max_rounds=1))
    return Table(
        name="tiny_table",
        title="Tiny",
        rows=(
            Row("lesions", lesions, "L_S alone", published={"mDice": 94.96, "mIOU": 91.02}),
            Row("tuned", tuned, "goes on from it", starts_from="lesions"),
            Row("vgg16", whole, "a grader", part="graders", published={"Accuracy": 53.01}),
            Row("ours", whole, "label update"),
        ),
        published_in="no table",
    )
