"""Packaged experiments, one YAML each; `--config=NAME` finds them by name."""
