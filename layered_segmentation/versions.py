"""Versions of what a result depends on, for results.json."""

import importlib.metadata
import platform

_PACKAGES = ("layered-segmentation", "tensorflow", "keras", "keras-hub", "numpy", "ai-edge-litert")


def installed() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on, by name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            found[package] = "not installed"
    return found
