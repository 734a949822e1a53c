"""Versions of what a result depends on, for results.json."""

import importlib.metadata
import platform

_PACKAGES = ("layered-segmentation", "tensorflow", "keras", "keras-hub", "numpy", "ai-edge-litert")


def installed() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on, by name."""
    return {"python": platform.python_version()} | {package: of(package) for package in _PACKAGES}


def of(package: str) -> str:
    """Returns a package's version; `not installed` if it is run from a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
