"""The ablation of the paper's Table 3 on real IDRiD images, small enough for two CPU cores.

Purpose:   what the grading loss, beta and the label update do on real images, without a GPU.
Paper:     Table 3, on one of its two sets and at 256 px instead of 1024; recommended losses and rates.
Launch:    python main.py compare --config=configs/tables/table3_laptop.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16. The grader also starts from it. For a shorter run:
           --config.data.size_px=192 --config.model.frozen_stages=3
Expected:  see docs/results.md.
Hardware:  2 CPU cores, 6 GiB.
"""

from configs.tables.rows import ablation
from configs.tables.table1_laptop import small_idrid
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table3_laptop",
        title="Ablation on IDRiD",
        rows=ablation(small_idrid()),
        published_in="Table 3, on IDRiD and DiaRetDB1 at 1024 px",
    )
