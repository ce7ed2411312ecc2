"""`prepare`: raw files -> prepared sets, and `data.json` with who is in which split."""

import cv2

from pldmlt_jax.cli.context import Context, start
from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.data.selection import describe


def main(arguments: Arguments) -> None:
    prepare(start(arguments))


def prepare(context: Context) -> None:
    """Opens (and so prepares) every set that the run needs."""
    config = context.config
    context.write_json(
        "data.json", describe(context.segmented, context.graded_for_graders, config.data)
    )
    if config.data.segmentation.startswith("synthetic"):
        from pldmlt_jax.data.synthetic import contact_sheet, ensure_written

        root = ensure_written(config.data.synthetic, config.data.cache_dir)
        sheet = contact_sheet(root, num=6)
        cv2.imwrite(str(context.workdir / "contact_sheet.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
