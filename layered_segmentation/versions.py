"""Versions of the packages that results depend on, for results.json."""

import importlib.metadata
import platform

_PACKAGES = ("layered-segmentation", "tensorflow", "keras", "keras-hub", "numpy", "ai-edge-litert")


def installed() -> dict[str, str]:
    """Returns the versions of Python and of the packages, by name."""
    return {"python": platform.python_version()} | {package: of(package) for package in _PACKAGES}


def of(package: str) -> str:
    """Returns a package's version, or `not installed`, as for this package in a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
