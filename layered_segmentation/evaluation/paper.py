"""The figures of tables 1 to 3 of Bielski and Favaro, NeurIPS 2019 (arXiv 1905.12663)."""

# Table 1, LSUN Car: mIoU and full-mask reference at 64 px, the same at 128 px.
SETTINGS: dict[str, tuple[str, tuple[float, ...]]] = {
    "a": ("default", (0.685, 0.440, 0.533, 0.432)),
    "b": ("no shift, δ = 0", (0.039, 0.428, 0.025, 0.419)),
    "c": ("shift, δ = 0.25", (0.144, 0.434, 0.094, 0.426)),
    "d": ("background contrast jitter", (0.765, 0.454, 0.673, 0.436)),
    "e": ("no random crops of real images", (0.264, 0.374, 0.136, 0.365)),
    "f": ("γ1 = 10", (0.733, 0.443, 0.643, 0.430)),
    "g": ("η = 5 %", (0.693, 0.458, 0.552, 0.430)),
    "h": ("one generator, three outputs", (0.550, 0.446, 0.484, 0.435)),
}

# Table 2, real images: mIoU on LSUN Car where a car is detected, on all of it, on CUB-200.
METHODS: dict[str, tuple[str, tuple[float, ...]]] = {
    "encoder": ("the method (encoder)", (0.540, 0.479, 0.380)),
    "grabcut": ("GrabCut", (0.559, 0.499, 0.453)),
    "full_mask": ("full mask", (0.402, 0.357, 0.132)),
}

# Table 3, LSUN Car: FID of 10,000 composites against 10,000 real images at 64 px, at 128 px.
GENERATORS: dict[str, tuple[str, tuple[float, ...]]] = {
    "single_output": ("StyleGAN, single output", (27.8, 21.7)),
    "layered": ("layered", (31.4, 30.9)),
}
