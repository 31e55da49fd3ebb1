"""Find the data of every task, outside of the project too, and write what identifies them.

DVC runs it every time. A task is prepared again only if what identifies its data changes.
"""

from pipeline.core import paths
from pipeline.core.files import save_json
from pipeline.core.stage import run_stage
from pipeline.data.sources import find_sources
from pipeline.params import load_params


def main() -> None:
    """Run the stage."""
    params = load_params()
    for task, found in find_sources(params.prepare, params.tasks).items():
        save_json(paths.source_path(task), found)


if __name__ == "__main__":
    run_stage(main)
