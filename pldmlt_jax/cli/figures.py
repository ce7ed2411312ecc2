"""`figures`: figures 1, 6 and 7 of the paper for any trained networks, and an overview of one prediction."""

from pathlib import Path

from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.figures import has_trained_graders, make_figures
from pldmlt_jax.workflow.options import RunOptions


def main(options: RunOptions) -> None:
    """Writes the figures, and prints which image they show."""
    context, output = Context(options), Path(options.output or options.workdir / "figures")
    print(f"  of {make_figures(context, options.images.split(','), output)}, see {output}")
    if not has_trained_graders(context):
        print("  without figure 6, which shows the maps of graders: the workdir has none")
