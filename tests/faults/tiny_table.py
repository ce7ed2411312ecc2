"""A table of the tiny config: lesions alone, a grader, and the whole method, which starts from the first.

Purpose:   the table of the tests and scripts of this folder.
Launch:    python main.py compare --config=tests/faults/tiny_table.py --workdir=DIR --config.data.cache_dir=DIR
"""

from dataclasses import replace

from pldmlt_jax.config import NO_SET
from pldmlt_jax.table_config import Row, Table
from tests.faults import tiny


def get_table() -> Table:
    whole = tiny.get_config()
    whole.train.max_rounds = 2
    lesions = replace(
        whole,
        data=replace(whole.data, grading=NO_SET),
        loss=replace(whole.loss, grading=False),
        meta=replace(whole.meta, enabled=False),
    )
    return Table(
        name="tiny_table",
        title="Tiny",
        rows=(
            Row("lesions", lesions, "L_S alone", published={"mDice": 94.96, "mIOU": 91.02}),
            Row("vgg16", whole, "a grader", part="graders", published={"Accuracy": 53.01}),
            Row("ours", whole, "the method", starts_from="lesions"),
        ),
        published_in="no table",
    )
