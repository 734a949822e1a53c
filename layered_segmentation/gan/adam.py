"""Adam with a learning rate and a count of updates for each variable, as in the reference code."""

from typing import Any

import keras
from keras import ops

BETA_2 = 0.99


@keras.saving.register_keras_serializable(package="layered_segmentation")
class ProgressiveAdam(keras.optimizers.Adam):
    """Adam whose variables may have a smaller rate and start later than others.

    A variable that starts at a later stage starts its bias correction there. With the global step
    count its first updates would be ten times too large (β2 = 0.99).

    Args:
        learning_rate: Of all variables that are not in `rates`.
        rates: Multiplier of the learning rate by `id` of the variable.
        first_steps: Step at which a variable starts, by `id` of the variable.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
        **kwargs: Those of `keras.optimizers.Optimizer`.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        rates: dict[int, float] | None = None,
        first_steps: dict[int, int] | None = None,
        beta_1: float = 0.0,
        beta_2: float = BETA_2,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs
        )
        self._rates_by_id = (rates or {}).items()
        self._first_steps_by_id = (first_steps or {}).items()

    def build(self, variables: list[Any]) -> None:
        super().build(variables)
        # By position, since inside a distributed update `id` is that of a replica's copy.
        rates, first_steps = dict(self._rates_by_id), dict(self._first_steps_by_id)
        self._rates = tuple(rates.get(id(v), 1.0) for v in variables)
        self._first_steps = tuple(first_steps.get(id(v), 0) for v in variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        self._shared: dict[Any, tuple[Any, Any, Any]] = {}
        return super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        index = self._get_variable_index(variable)
        rate, step, correction = self._scalars(index, learning_rate, dtype)
        velocity = self._velocities[index]
        if self.beta_1 == 0:  # the moment is the gradient itself
            moment = gradient
        else:
            momentum = self._momentums[index]
            self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
            moment = momentum / (1 - ops.power(ops.cast(self.beta_1, dtype), step))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        # As in the reference code's framework, ε is added after the bias correction.
        denominator = ops.sqrt(velocity) / correction + self.epsilon
        self.assign_sub(variable, rate * moment / denominator)

    def _scalars(self, index: int, learning_rate: Any, dtype: Any) -> tuple[Any, Any, Any]:
        """Returns a variable's rate, its count of updates and the correction of its velocity.

        Most variables share them. Computed for each, they are a quarter of a step's operations.
        """
        key = self._rates[index], self._first_steps[index], dtype
        if key not in self._shared:
            rate = ops.cast(learning_rate, dtype) * self._rates[index]
            step = ops.cast(ops.maximum(self.iterations - self._first_steps[index], 0) + 1, dtype)
            correction = ops.sqrt(1 - ops.power(ops.cast(self.beta_2, dtype), step))
            self._shared[key] = rate, step, correction
        return self._shared[key]
