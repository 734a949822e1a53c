import keras
import numpy as np
import pytest

from layered_segmentation.gan.adam import ProgressiveAdam


def adam_by_hand(gradients, rate, beta_1, beta_2, epsilon):
    """Kingma & Ba's algorithm 1 from a weight of 0."""
    weight = moment = velocity = 0.0
    for step, gradient in enumerate(gradients, 1):
        moment = beta_1 * moment + (1 - beta_1) * gradient
        velocity = beta_2 * velocity + (1 - beta_2) * gradient**2
        corrected = velocity / (1 - beta_2**step)
        weight -= rate * moment / (1 - beta_1**step) / (corrected**0.5 + epsilon)
    return weight


GRADIENTS = [0.5, -2.0, 3.0, 1e-3]


@pytest.mark.parametrize("beta_1", [0.0, 0.9])
def test_is_adam(beta_1):
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer = ProgressiveAdam(0.01, beta_1=beta_1)
    for gradient in GRADIENTS:
        optimizer.apply([np.array([gradient], np.float32)], [variable])
    expected = adam_by_hand(GRADIENTS, 0.01, beta_1, 0.99, 1e-8)
    assert float(variable.numpy()[0]) == pytest.approx(expected, rel=1e-4)


def test_slow_variables_and_late_ones():
    plain, slow, late = (keras.Variable(np.zeros(1, np.float32)) for _ in range(3))
    optimizer = ProgressiveAdam(0.01, rates={id(slow): 0.01}, first_steps={id(late): 2})
    optimizer.build([plain, slow, late])
    for step, gradient in enumerate(GRADIENTS):
        used = [plain, slow] + ([late] if step >= 2 else [])
        optimizer.apply([np.array([gradient], np.float32)] * len(used), used)
    of = lambda gradients, rate: adam_by_hand(gradients, rate, 0.0, 0.99, 1e-8)  # noqa: E731
    assert float(plain.numpy()[0]) == pytest.approx(of(GRADIENTS, 0.01), rel=1e-4)
    assert float(slow.numpy()[0]) == pytest.approx(of(GRADIENTS, 0.0001), rel=1e-4)
    assert float(late.numpy()[0]) == pytest.approx(of(GRADIENTS[2:], 0.01), rel=1e-4)
