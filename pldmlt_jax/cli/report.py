"""`report`: one self-contained page of everything that the run left."""

from pldmlt_jax.cli.context import Context
from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.evaluation.report import write_report


def main(arguments: Arguments) -> None:
    report(Context(arguments))


def report(context: Context) -> None:
    print(f"  {write_report(context.workdir)}")
