"""Builds, trains, saves and loads networks under whatever Keras is set to; writes their outputs.

    odd_keras.py DIRECTORY FLOAT DATA_FORMAT

The settings are made as a user's keras.json makes them, before anything of this package is
imported. What lies in DIRECTORY from an earlier call is loaded too.
"""

import os
import sys

import keras
import numpy as np


def main(directory, float_type, data_format):
    keras.config.set_floatx(float_type)
    keras.config.set_image_data_format(data_format)

    import tiny_networks

    from layered_segmentation import LayeredGAN, LayeredSegmenter
    from layered_segmentation.config import StudentConfig
    from layered_segmentation.data.scenes import Scenes
    from layered_segmentation.segmenter import fit, presets
    from layered_segmentation.segmenter.segmenter import create_segmenter

    photos = tiny_networks.scenes(20, count=2)
    outputs = {}

    gan = LayeredGAN(resolution=8, latent_dim=4, mapping_layers=1, max_channels=4)
    gan.compile()
    real = np.linspace(-1, 1, 8 * 8 * 8 * 3).reshape(8, 8, 8, 3).astype(np.float32)
    gan.fit(real, batch_size=4, epochs=1, verbose=0, shuffle=False)
    outputs["gan"] = gan.generate(2, seed=1)
    outputs["score"] = gan.discriminator(real)
    images, masks = Scenes(seed=0, count=8).load_pairs(16)
    student = create_segmenter(4, 16)
    fit.initialise(student, 0)
    settings = StudentConfig(width=4, steps=2, batch=4)
    fit.fit(student, fit.Pool.from_pairs(images, masks), settings, seed=0)
    outputs["student"] = student.predict_masks(list(photos))
    outputs["predict"] = student.predict(photos)
    encoder = tiny_networks.encoder_segmenter()
    path = os.path.join(directory, "gan.keras")
    if not os.path.exists(path):  # the first call saves
        gan.save(path)
        presets.save(student, os.path.join(directory, "student"))
        presets.save(encoder, os.path.join(directory, "encoder"))
    loaded = keras.models.load_model(path)
    outputs["gan, loaded"] = loaded.generate(2, seed=1)
    for name in ("student", "encoder"):
        segmenter = presets.load(os.path.join(directory, name))
        outputs[f"{name}, loaded"] = segmenter.predict_masks(list(photos))
    # What is saved here must load elsewhere.
    own = os.path.join(directory, f"{float_type}_{data_format}")
    os.makedirs(own)
    gan.save(os.path.join(own, "gan.keras"))
    presets.save(student, os.path.join(own, "student"))
    packaged = LayeredSegmenter.from_preset("layered_unet_flowers_64")
    outputs["packaged"] = packaged.predict_masks(list(photos))
    weights = [*gan.variables, *student.variables, *encoder.variables]
    assert {variable.dtype for variable in weights} <= {"float32", "int64", "int32", "uint32"}
    flat = {}
    for name, value in outputs.items():
        parts = value if isinstance(value, list | tuple) else [value]
        for index, part in enumerate(parts):
            flat[f"{name} {index}"] = np.asarray(part)
    np.savez(os.path.join(own, "outputs.npz"), **flat)


if __name__ == "__main__":
    main(*sys.argv[1:])
