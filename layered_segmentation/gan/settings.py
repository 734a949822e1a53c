"""The keyword arguments of `LayeredGAN`, checked as the section `gan` of a config is."""

import dataclasses
from typing import Any

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError


def config_of(resolution: int, settings: dict[str, Any]) -> configs.Config:
    """Returns a config whose section `gan` has the settings.

    Args:
        resolution: Final image side; by default also that of the first stage.
        settings: Other fields of `GANConfig`.

    Raises:
        UserError: An unknown setting, or a value that is out of bounds.
    """
    known = [field.name for field in dataclasses.fields(configs.GANConfig)]
    for name in settings:
        if name not in known:
            raise UserError(
                f"LayeredGAN({name}=...): there is no such argument; there are seed, stages, "
                f"dtype and {', '.join(known)}"
            )
    gan = {"initial_resolution": resolution, **settings, "resolution": resolution}
    return configs.load("", [f"gan.{name}={value}" for name, value in gan.items()])
