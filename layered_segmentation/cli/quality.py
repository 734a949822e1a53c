"""Measures the quality of a run and of its student without true masks.

Prints, and writes to RUN/quality.json:

- the IoU of the student's masks of generated scenes with the generated masks, and with those of
  other scenes,
- the IoU of its masks of two overlapping crops of a training photo, and of crops of two photos,
- how much of the frame and of its edge the generated masks cover,
- a score: the mean of the two differences minus the coverage of the edge. It ranks runs on the
  same photos; docs/photo-experiments.md shows how well.

`layerseg distill` and `layerseg quickstart` measure this too.

Example:
  layerseg quality --run_dir=RUN
"""

import dataclasses
import os

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
shared.define_max_pixels_flag()

RESUME = "nothing was written; run it again"


def main(_: list[str]) -> None:
    """Measures one run."""
    run = shared.open_run(_RUN_DIR.value, 0)
    quiet.import_tensorflow()
    from layered_segmentation.evaluation import quality
    from layered_segmentation.segmenter import presets

    measured = quality.measure_run(run, run.config(), presets.load(run.path))
    for name, value in {**dataclasses.asdict(measured), "score": measured.score}.items():
        print(f"{name}: {value:.3f}")
    print(f"results: {os.path.join(run.path, quality.FILE)}")


if __name__ == "__main__":
    app.run(main)
