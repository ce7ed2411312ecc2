"""The networks of the paper's Table 1 on its pool of images, five folds: IDRiD's segmentation part and DiaRetDB1.

Purpose:   each network with the same loss, rates, images and folds; the paper's values where it gives any.
Paper:     Table 1, upper half: U-Net, LinkNet, DeepLabv3+, FPN, MTUnet, PLDMLT.
Launch:    python main.py compare --config=configs/tables/table1.py --config.data.root=DIR
           DIR holds IDRiD/ and DiaRetDB1/. Missing files are named. Weights are downloaded once.
Expected:  not yet reproduced. Grades are scored on IDRiD's official test images, or on validation images if there are none.
Hardware:  one GPU with 24 GB, for days: 30 trainings at 1024x1024.
"""

from dataclasses import replace

from configs import idrid
from configs.tables.rows import IDRID_DIARETDB1, networks
from pldmlt_jax.config import Config
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table1",
        title="Table 1: segmentation networks, IDRiD and DiaRetDB1",
        rows=networks(pool(), IDRID_DIARETDB1),
        folds=(0, 1, 2, 3, 4),
        published_in="Table 1",
    )


def pool() -> Config:
    """Returns the literal config on the paper's 170 images, in five folds."""
    config = idrid.get_config()
    return replace(config, data=replace(config.data, segmentation="idrid_s+diaretdb1", split="all_folds"))
