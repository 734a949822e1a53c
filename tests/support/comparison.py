"""How close values must be to those that the authors' code gave.

Two programs that compute the same in float32 differ by rounding. A few values differ by far more
than the rest: a sum that nearly cancels, or the update of a weight whose gradient is nearly 0.
With β1 = 0, Adam's first update of a weight is the sign of its gradient times the learning rate,
so there rounding alone can reverse a step. A fault moves many values, or moves some very far. Each
value therefore has two bounds:

- the *tolerance*, which nearly all values keep. Of the values compared together, 1 in 1,000 may
  exceed it, rounded down: none of the 4 scores of a discriminator, 65 of the 65,536 of a mask. The
  weights of a network are compared together, because outliers come in groups: where the
  gradient of one channel is nearly 0, they are in its bias and in its column of the style kernel.
  A fault in one small variable could go unnoticed in a large network. So in each variable at most
  1 in 20 values may exceed the tolerance, rounded up, and always fewer than half;
- the *limit*, which no value may exceed: for outputs `OUTLIER` times the tolerance, for weights the
  distance that the optimizer can put between two runs.

`comparison_test.py` shows which faults this finds.
"""

import dataclasses
import math

import numpy as np
from keras.ops import convert_to_numpy as to_numpy

TOLERANCE = 1e-4  # of an output's standard deviation, of a loss, of a weight
ONE_IN = 1000
ONE_IN_OF_ARRAY = 20
# Random networks of 8 to 128 channels at 128 px, computed in two orders of summation: the largest
# error is up to 5 times the one that all but 1 in 1,000 values keep. It is invisible in 8 bits.
OUTLIER = 5.0
# The recorded training: Adam with β1 = 0, and the average of the generator's weights.
LEARNING_RATE = 0.001
MAPPING_RATE = 0.01 * LEARNING_RATE
BETA_2 = 0.99
DECAY = 0.999
# What storing a weight in float32 may add a step, relative to the weight: one program rounds the
# new weight, the other two terms of it.
ROUNDING = 2.0**-22


@dataclasses.dataclass(frozen=True)
class Values:
    """An array to compare.

    Attributes:
        name: What it is, for the message.
        actual: The computed array.
        expected: The recorded array, of the same shape.
        tolerance: What nearly all errors keep; a number or an array of the same shape.
        limit: What every error keeps; a number or an array of the same shape.
    """

    name: str
    actual: np.ndarray
    expected: np.ndarray
    tolerance: float | np.ndarray
    limit: float | np.ndarray

    @property
    def errors(self):
        return np.abs(self.actual.astype(np.float64) - self.expected)

    def beyond(self, bound):
        """Returns how many values are further off than `bound`; NaN is."""
        return int(np.sum(~(self.errors <= bound)))

    def worst(self):
        """Returns the error that is largest in terms of its tolerance, and a sentence about it."""
        ratio = np.nan_to_num(self.errors / np.maximum(self.tolerance, 1e-30), nan=np.inf)
        place = np.unravel_index(np.argmax(ratio), ratio.shape)
        error = self.errors[place]
        bounds = [np.broadcast_to(b, ratio.shape)[place] for b in (self.tolerance, self.limit)]
        where = f"{self.name}[{', '.join(map(str, place))}]"
        value, expected = self.actual[place], self.expected[place]
        return float(ratio[place]), (
            f"the worst is {where}: {value:.8g} instead of {expected:.8g}, "
            f"{error:.3g} off (tolerance {bounds[0]:.3g}, limit {bounds[1]:.3g})"
        )


def assert_agree(what, arrays):
    """Compares arrays together.

    Args:
        what: What they are, for the message.
        arrays: `Values`.

    Raises:
        AssertionError: Too many values exceed their tolerance, in all or in one array, or one
            exceeds its limit. It tells how many, which value is the worst, and where it is.
    """
    for values in arrays:
        shapes = values.actual.shape, values.expected.shape
        assert shapes[0] == shapes[1], f"{what}: {values.name} is {shapes[0]}, not {shapes[1]}"
    total = sum(values.actual.size for values in arrays)
    beyond = [values.beyond(values.tolerance) for values in arrays]
    worst = max(values.worst() for values in arrays)[1]
    faults = []
    if sum(beyond) > total // ONE_IN:
        faults.append(
            f"{sum(beyond):,} of {total:,} values ({sum(beyond) / total:.3%}) exceed their "
            f"tolerance, where {total // ONE_IN:,} may"
        )
    for values, count in zip(arrays, beyond, strict=True):
        size = values.actual.size
        allowed = min(math.ceil(size / ONE_IN_OF_ARRAY), (size - 1) // 2)
        if count > allowed:
            faults.append(
                f"{count:,} of the {size:,} values of {values.name} ({count / size:.3%}) exceed "
                f"their tolerance, where {allowed:,} may"
            )
        if over := values.beyond(values.limit):
            faults.append(f"{over:,} of {values.name} exceed the limit of every value")
    if faults:
        raise AssertionError(f"{what}: {worst}\n" + "\n".join(faults))


def assert_outputs_agree(what, actual, expected):
    """Compares an output of a network, any shape; tolerance and limit are relative to its spread.

    Args:
        what: What it is, for the message.
        actual: The computed output.
        expected: The recorded output, of the same shape.

    Raises:
        AssertionError: They differ.
    """
    tolerance = TOLERANCE * float(expected.std() or np.abs(expected).max())
    actual = to_numpy(actual)
    assert_agree(what, [Values(what, actual, expected, tolerance, OUTLIER * tolerance)])


def assert_weights_agree(what, actual, expected, resolution, steps, is_average=False):
    """Compares the weights of a network after some training steps, or their moving averages.

    The tolerance is a tenth of the learning rate: `TOLERANCE`, and a hundredth of it in mapping
    networks, which learn 100 times slower. The limit is twice the distance that Adam can move a
    weight, as two runs may move it in opposite directions. A moving average starts at the first
    weights and follows them by `1 - DECAY` a step; its bounds are smaller accordingly. Variables
    that the stage does not train must stay as they are. No bound is below what float32 can store.

    Args:
        what: What they are, for the message.
        actual: The weights of the trained network, arrays in the order of its variables.
        expected: The network with the recorded weights.
        resolution: The stage's resolution.
        steps: How many updates the weights have seen.
        is_average: Whether these are moving averages.

    Raises:
        AssertionError: They differ.
    """
    rates = {id(v): LEARNING_RATE for v in expected.stage_variables(resolution)}
    if hasattr(expected, "mapping_variables"):
        rates |= {id(v): MAPPING_RATE for v in expected.mapping_variables()}
    # Share of the difference after each step that is left in the end.
    shares = [0.0] * (steps - 1) + [1.0]
    if is_average:
        shares = [(1 - DECAY) * DECAY ** (steps - step) for step in range(1, steps + 1)]
    arrays = []
    for value, variable in zip(actual, expected.variables, strict=True):
        rate, recorded = rates.get(id(variable), 0.0), to_numpy(variable)
        tolerance = sum(shares) * 0.1 * rate
        limit = sum(share * 2 * max_distance(rate, step) for step, share in enumerate(shares, 1))
        stored = ROUNDING * steps * np.abs(recorded)
        bounds = np.maximum(tolerance, stored), np.maximum(limit, stored)
        arrays.append(Values(variable.path, value, recorded, *bounds))
    assert_agree(what, arrays)


def max_distance(rate, steps):
    """Returns how far Adam with β1 = 0 can move a weight.

    Step t is `rate · g_t / sqrt(v_t)` with the bias-corrected `v_t = (1 - β2) / (1 - β2^t) ·
    Σ β2^(t-i) g_i²`. The sum is at least its last term, `g_t²`, so that a step is at most
    `rate · sqrt((1 - β2^t) / (1 - β2))`: 1, 1.41, 1.72 times the rate, and so on. Gradients that
    grow fast enough approach all of these.
    """
    steps_at_most = [math.sqrt((1 - BETA_2**step) / (1 - BETA_2)) for step in range(1, steps + 1)]
    return rate * sum(steps_at_most)
