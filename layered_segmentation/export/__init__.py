"""Turns a trained segmenter into files other programs run."""
