"""DiaRetDB1 only: prepares the set and trains on its lesions. The set has no grades.

Purpose:   the set's own fusion of its four experts' markings, and its official lists.
Paper:     one of the two sets of its pixel-labelled images (both: data.segmentation="idrid_s+diaretdb1").
Launch:    python main.py prepare --config=configs/diaretdb1.py --config.data.root=DIR
           DIR holds DiaRetDB1/. Without `prepare` the network is also trained.
Expected:  28 training and 61 test images. At the set's own agreement of 0.75 microaneurysms cover only 0.008 % of all
           pixels. To train on them use --config.data.agreement=0.5 or 0.25.
Hardware:  a GPU with 24 GB for training, as for configs/idrid.py; not yet reproduced.
"""

from pldmlt_jax.config import NO_SET, Config, DataConfig, LossConfig, MetaConfig


def get_config() -> Config:
    return Config(
        name="diaretdb1",
        data=DataConfig(segmentation="diaretdb1", grading=NO_SET),
        loss=LossConfig(grading=False),
        meta=MetaConfig(enabled=False),
    )
