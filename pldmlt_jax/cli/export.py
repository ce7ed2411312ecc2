"""`export`: the trained network, for use without this program."""

from pathlib import Path

from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.export import choose_formats, export_network
from pldmlt_jax.workflow.options import RunOptions


def main(options: RunOptions) -> None:
    """Exports the network, and prints what was written."""
    formats = choose_formats(options.format)
    output = Path(options.output or options.workdir / "export")
    for line in export_network(Context(options), formats, output):
        print(f"  {line}")
    print(f"  in {output}")
