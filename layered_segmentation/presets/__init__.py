"""Trained segmenters that come with the package, each a KerasHub preset with a model card."""
