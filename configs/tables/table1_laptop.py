"""The networks of the paper's Table 1 on real IDRiD images, small enough for two CPU cores.

Purpose:   a comparison on real images without a GPU, with recommended losses and rates as in configs/idrid_laptop.py.
Paper:     Table 1, upper half, on one of its two sets and at 256 px instead of 1024.
Launch:    python main.py compare --config=configs/tables/table1_laptop.py --config.data.root=DIR
           DIR holds IDRiD/. All networks start from ImageNet; weights are downloaded once. If you only have
           the VGG16 file: --rows=unet,mtunet,ours --config.model.weights=FILE
Expected:  see docs/results.md, for three rows at 192 px.
Hardware:  2 CPU cores, 6 GiB.
"""

from dataclasses import replace

from configs import idrid_laptop
from configs.tables.rows import IDRID_DIARETDB1, networks
from pldmlt_jax.config import Config
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="table1_laptop",
        title="Segmentation networks on IDRiD",
        rows=networks(small_idrid(), IDRID_DIARETDB1),
        published_in="Table 1, on IDRiD and DiaRetDB1 at 1024 px",
    )


def small_idrid() -> Config:
    config = idrid_laptop.get_config()
    return replace(config, data=replace(config.data, size_px=256), train=replace(config.train, max_rounds=10))
