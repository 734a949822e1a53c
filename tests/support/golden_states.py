"""State dicts of the authors' networks, as recorded from their code."""

import os

import numpy as np

FILE = os.path.join(os.path.dirname(__file__), "..", "data", "perturbed_seg_w16.npz")


def read():
    """Returns their state dicts by section: three generators and the discriminator."""
    file = np.load(FILE)
    states = {}
    for section in ("two_generators", "one_generator", "shared_style", "discriminator"):
        prefix = f"{section}/state/"
        keys = [name for name in file.files if name.startswith(prefix)]
        states[section] = {name.removeprefix(prefix): file[name] for name in keys}
    return states
