"""The packages and the hardware that results depend on, for results.json and reports."""

import importlib.metadata
import os
import platform
import re

_PACKAGES = ("layered-segmentation", "tensorflow", "keras", "keras-hub", "numpy", "ai-edge-litert")


def installed() -> dict[str, str]:
    """Returns the versions of Python and of the packages, by name."""
    return {"python": platform.python_version()} | {package: of(package) for package in _PACKAGES}


def machine() -> dict[str, str]:
    """Returns this machine's hardware and system, by name; no name or path of a person's."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return {
        "processor": f"{_processor()}, {cores} core{'s' if cores > 1 else ''}",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return (found and found[1]) or platform.processor() or platform.machine() or "unknown"


def of(package: str) -> str:
    """Returns a package's version, or `not installed`, as for this package in a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
