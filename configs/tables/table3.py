"""The ablation of the paper's Table 3, and the row that it lacks.

Purpose:   what the grading loss, the label update and beta do, one at a time. `beta08_fixed` against `beta08_update`
           isolates the label update, which the paper does not show at its own beta.
Paper:     Table 3.
Launch:    python main.py compare --config=configs/tables/table3.py --config.data.root=DIR
           DIR holds IDRiD/ and DiaRetDB1/.
Expected:  not yet reproduced.
Hardware:  one GPU with 24 GB, for days: 25 trainings at 1024x1024.
"""

from configs.tables import table1
from configs.tables.rows import ablation, with_imagenet
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table3",
        title="Table 3: ablation, IDRiD and DiaRetDB1",
        rows=ablation(with_imagenet(table1.pool())),
        folds=(0, 1, 2, 3, 4),
        published_in="Table 3",
    )
