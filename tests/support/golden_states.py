"""Numbers recorded from the authors' code; `data/README.md` explains the keys."""

import os
import re

import numpy as np

from layered_segmentation.port.weights import (
    discriminator_from_state_dict,
    generator_from_state_dict,
)

FILE = os.path.join(os.path.dirname(__file__), "..", "data", "perturbed_seg_w16.npz")


def read():
    """Returns their state dicts by section: three generators and the discriminator."""
    golden = Recording(FILE)
    sections = ("two_generators", "one_generator", "shared_style", "discriminator")
    return {section: golden.state(f"{section}/state") for section in sections}


class Recording:
    """A file of golden values, in the package's layout."""

    def __init__(self, path):
        self.file = np.load(path)
        self.names = self.file.files

    def __getitem__(self, name):
        return self.file[name]

    def __contains__(self, section):
        return any(name.startswith(f"{section}/") for name in self.names)

    def images(self, name):
        """NCHW -> NHWC."""
        return self.file[name].transpose(0, 2, 3, 1)

    def state(self, section):
        prefix = f"{section}/"
        return {n.removeprefix(prefix): self.file[n] for n in self.names if n.startswith(prefix)}

    def cases(self, pattern):
        """The parts of all names that match, in order."""
        return sorted({m[1] for m in (re.match(pattern, name) for name in self.names) if m})

    def generator_cases(self):
        sections = self.cases(r"(?!discriminator/)(\w+/case\d+)/step$")
        return sorted(sections, key=lambda case: (case.split("/")[0], self.side(case)))

    def discriminator_cases(self):
        return sorted(self.cases(r"(discriminator/case\d+)/x$"), key=self.side)

    def side(self, section):
        return 4 * 2 ** int(self.file[f"{section}/step"])

    def alpha(self, section):
        alpha = float(self.file[f"{section}/alpha"])
        return 1.0 if alpha < 0 else alpha

    def noise(self, section):
        blocks = len(self.cases(rf"({re.escape(section)}/noise\d+)$"))
        return [self.images(f"{section}/noise{block}") for block in range(blocks)]

    def latents(self, name):
        """[2, B, D] -> [B, 2, D]; [B, D] stays."""
        latents = self.file[name]
        return latents.transpose(1, 0, 2) if latents.ndim == 3 else latents

    def generator(self, section):
        """The generator of a section, as large as its largest case."""
        sides = [self.side(case) for case in self.cases(rf"({section}/case\d+)/step$")]
        return generator_from_state_dict(self.state(f"{section}/state"), max(sides, default=None))

    def discriminator(self):
        """The discriminator, as large as its largest case."""
        side = max(self.images(f"{case}/x").shape[1] for case in self.discriminator_cases())
        return discriminator_from_state_dict(self.state("discriminator/state"), side)

    def trained(self, network, iterations):
        """The generator, discriminator or average after some iterations."""
        convert = (
            discriminator_from_state_dict
            if network == "discriminator"
            else generator_from_state_dict
        )
        name = "ema" if network == "average" else network
        return convert(self.state(f"trajectory/{name}{iterations}"), self.side("trajectory"))

    def layers(self, generator, case):
        """What a generator gives for the inputs of a case."""
        latents = self.latents(f"{case.split('/')[0]}/z")
        return generator(
            latents,
            noise=self.noise(case),
            crossover=np.full(len(latents), int(self[f"{case}/mixing_start"])),
            alpha=self.alpha(case),
            resolution=self.side(case),
        )
