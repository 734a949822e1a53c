"""Progressive growing as pure functions: images seen -> stage, alpha, batch, learning rate."""

import dataclasses
import math

from layered_segmentation.config import Config, ScheduleConfig


@dataclasses.dataclass(frozen=True)
class Stage:
    """One resolution's share of the training."""

    index: int  # 0 for the initial resolution
    resolution: int  # image side, pixels
    batch: int  # global batch size, images
    first_image: int  # images seen before the stage
    steps: int  # training steps of the stage
    first_step: int  # training steps before the stage
    fade_images: int  # images over which the resolution fades in; 0 in the first stage
    learning_rate: float  # of both optimisers

    @property
    def images(self) -> int:
        """Images that the stage shows: whole batches."""
        return self.steps * self.batch

    @property
    def end_image(self) -> int:
        """Images seen after the stage."""
        return self.first_image + self.images


def stages(config: Config) -> list[Stage]:
    """Returns the stages of a run, from the initial to the final resolution (section 4)."""
    schedule = config.schedule
    result: list[Stage] = []
    resolution = config.gan.initial_resolution
    first_image = first_step = 0
    while resolution <= config.gan.resolution:
        batch = batch_size(schedule, resolution)
        images = schedule.images_at.get(resolution, schedule.images_per_stage)
        steps = math.ceil(images / batch)
        result.append(
            Stage(
                index=len(result),
                resolution=resolution,
                batch=batch,
                first_image=first_image,
                steps=steps,
                first_step=first_step,
                fade_images=round(schedule.fade_fraction * images) if result else 0,
                learning_rate=learning_rate(schedule, resolution),
            )
        )
        first_image += steps * batch
        first_step += steps
        resolution *= 2
    return result


def alpha(stage: Stage, images_seen: int) -> float:
    """Returns the weight of the stage's own resolution, in [0, 1], rising over the fade."""
    if stage.fade_images == 0:
        return 1.0
    return min(1.0, max(0.0, (images_seen - stage.first_image) / stage.fade_images))


def batch_size(schedule: ScheduleConfig, resolution: int) -> int:
    """Returns the batch of a resolution, or of the next smaller one that is listed."""
    smaller = [side for side in schedule.batch if side <= resolution]
    return schedule.batch[max(smaller) if smaller else min(schedule.batch)]


def learning_rate(schedule: ScheduleConfig, resolution: int) -> float:
    """Returns the learning rate of a resolution."""
    rates = schedule.learning_rate
    return rates.get(str(resolution), rates.get("default", 0.001))
