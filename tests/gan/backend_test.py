import os
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import sys
import numpy as np
import keras
from layered_segmentation.gan import losses
from layered_segmentation.gan.composite import compose, perturb
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.generator import LayeredGenerator

normal = lambda seed, *shape: np.random.default_rng(seed).normal(size=shape).astype("float32")
generator = LayeredGenerator(resolution=16, latent_dim=8, mapping_layers=2, max_channels=8)
discriminator = Discriminator(resolution=16, max_channels=8)
for model in (generator, discriminator):
    model.set_weights([normal(i, *w.shape) for i, w in enumerate(model.get_weights())])
layers = generator(
    normal(1, 4, 2, 8),
    noise=[normal(s, 4, s, s, 1) for s in (4, 8, 16)],
    crossover=np.array([0, 1, 2, 3]),
    alpha=0.3,
    truncation=0.8,
)
moved = perturb(layers, np.array([(1, 2), (0, 0), (-2, 1), (3, -3)]), normal(2, 4) * 0.1 + 1)
image = compose(moved)
score = discriminator(image, alpha=0.3)
drawn = compose(generator.from_codes(normal(3, 4, *generator.codes_shape)))
features = [discriminator.features(x, side=8) for x in (drawn, image)]
size, binary = losses.mask_size(moved.mask, 0.5), losses.mask_binary(moved.mask)
assert keras.backend.backend() == sys.argv[1]
if sys.argv[1] == "jax":
    assert "tensorflow" not in sys.modules, "the networks pull in TensorFlow"
np.savez(
    sys.argv[2], image=np.array(image), score=np.array(score), size=np.array(size),
    binary=np.array(binary), drawn=np.array(drawn),
    eq7=np.array(losses.encoder(drawn, image, *features)),
    loss=np.array(losses.generator(score, size, binary, 2, 2)),
)
"""


def run(backend, path):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run(
        [sys.executable, "-c", SCRIPT, backend, str(path)], env=environment, check=True, timeout=300
    )
    return np.load(path)


@pytest.mark.slow
def test_networks_and_losses_are_the_same_under_jax(tmp_path):
    pytest.importorskip("jax")
    expected = run("tensorflow", tmp_path / "tensorflow.npz")
    values = run("jax", tmp_path / "jax.npz")
    assert np.abs(expected["image"]).max() > 0.1
    for key in expected.files:
        np.testing.assert_allclose(values[key], expected[key], rtol=1e-3, atol=1e-3)
