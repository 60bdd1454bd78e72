"""`python -m benchmarks.scale`."""

from benchmarks.result import write_page as replace_page
from benchmarks.scale.figures import read_figures
from benchmarks.scale.options import ScaleCommand
from benchmarks.scale.page import write_page
from pipeline.settings import run_command


def main(command: ScaleCommand) -> None:
    """Compute and write the page."""
    page = write_page(command, read_figures(command.results, command.assumed))
    replace_page(command.out, page)
    answers = page.partition("\n- ")[2].partition("\n\n")[0]
    print(f"- {answers}\nwritten to {command.out}")


if __name__ == "__main__":
    run_command(ScaleCommand, main)
