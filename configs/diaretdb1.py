"""DiaRetDB1 alone: prepares it, and learns its lesions, for it has no grades.

Purpose:   the set's own fusion of its four experts and its official lists, ready for use.
Paper:     one of the two sets that its pixel-labelled images are from (together: data.segmentation="idrid_s+diaretdb1").
Launch:    python main.py prepare --config=configs/diaretdb1.py --config.data.root=DIR
           DIR holds DiaRetDB1/. Without `prepare` the network is trained as well.
Expected:  28 training and 61 test photographs. At the set's own agreement of 0.75 microaneurysms are dust (0.008 % of all
           pixels): --config.data.agreement=0.5 or 0.25 to train on them.
Hardware:  a GPU with 24 GB for the training, as configs/idrid.py; not yet reproduced.
"""

from pldmlt_jax.config import NO_SET, Config, DataConfig, LossConfig, MetaConfig


def get_config() -> Config:
    return Config(
        name="diaretdb1",
        data=DataConfig(segmentation="diaretdb1", grading=NO_SET),
        loss=LossConfig(grading=False),
        meta=MetaConfig(enabled=False),
    )
