"""The losses of GAN and encoder, eq. 3 to 7, each a function of tensors; all in float32."""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from layered_segmentation.choices import FeatureTerm
from layered_segmentation.gan.composite import Layers


def mask_size(mask: Any, least: float, most: float = 1.0) -> Any:
    """Penalises masks that cover too little (eq. 3) or, unlike the paper, too much.

    Args:
        mask: Float [B, H, W, 1] in [0, 1].
        least: η, the mean coverage below which a mask is penalised, in (0, 1).
        most: The mean coverage above which a mask is penalised; 1 is the paper's eq. 3.

    Returns:
        Scalar, the batch's mean hinge.
    """
    coverage = ops.mean(mask, axis=(1, 2, 3))
    return ops.mean(ops.maximum(0.0, least - coverage) + ops.maximum(0.0, coverage - most))


def mask_binary(mask: Any) -> Any:
    """Penalises mask values between 0 and 1 (eq. 4).

    Args:
        mask: Float [B, H, W, 1] in [0, 1].

    Returns:
        Scalar in [0, 0.5].
    """
    return ops.mean(ops.minimum(mask, 1.0 - mask))


def independence(layers: Layers, roll: Callable[[Any], Any]) -> Any:
    """ILSGAN's upper bound of the layers' mutual information (Zou et al. 2023), without its σ.

    It is small where a hidden pixel resembles the pixel in front of it no more than another
    scene's hidden pixel does. As in the authors' code, pixels outside [-1, 1] get no gradient:
    the term would drive them ever further out.

    Args:
        layers: The layers, each [B, H, W, C].
        roll: Returns another scene's value for each scene of the batch.

    Returns:
        Scalar.
    """
    background, foreground = (ops.clip(layer, -1.0, 1.0) for layer in layers[:2])
    mask = layers.mask
    pairs = (
        (mask * background, mask * foreground),
        ((1.0 - mask) * foreground, (1.0 - mask) * background),
    )
    return sum(
        ops.mean(ops.abs(roll(hidden) - visible)) - ops.mean(ops.abs(hidden - visible))
        for hidden, visible in pairs
    )


def background_objects(found: Any) -> Any:
    """Penalises objects that a segmenter finds in backgrounds: cross-entropy with an empty mask.

    Unlike that of the mean probability, its gradient does not vanish where the segmenter is sure.

    Args:
        found: Float [B, H, W, 1] in [0, 1], the probability of an object.

    Returns:
        Scalar, at least 0.
    """
    return -ops.mean(ops.log(ops.maximum(1.0 - found, 0.0) + 1e-6))


@ops.custom_gradient  # type: ignore[untyped-decorator]
def within_range(images: Any) -> Any:
    """Clips drawn images to [-1, 1].

    Pixels outside keep only gradients whose descent moves them inside: others would drive them ever
    further out, and without any they would stay.

    Args:
        images: Float [B, H, W, 3].
    """

    def gradient(*arguments: Any, upstream: Any = None) -> Any:
        if upstream is None:
            (upstream,) = arguments
        is_above, is_below = images > 1.0, images < -1.0
        upstream = ops.where(is_above, ops.maximum(upstream, 0.0), upstream)
        return ops.where(is_below, ops.minimum(upstream, 0.0), upstream)

    return ops.clip(images, -1.0, 1.0), gradient


def generator(
    fake_score: Any, size: Any, binary: Any, size_weight: float, binary_weight: float
) -> Any:
    """The generator's loss (eq. 5).

    Args:
        fake_score: Float [B, 1], the discriminator's score of the composites.
        size: Scalar of eq. 3.
        binary: Scalar of eq. 4.
        size_weight: γ1.
        binary_weight: γ2.
    """
    return -ops.mean(fake_score) + size_weight * size + binary_weight * binary


def interpolate(real: Any, fake: Any, zeta: Any) -> Any:
    """Mixes each real image with a fake one, `ζ·real + (1 - ζ)·fake` (eq. 6).

    Args:
        real: Float [B, H, W, 3].
        fake: Float [B, H, W, 3].
        zeta: Float [B, 1, 1, 1] in [0, 1].
    """
    return zeta * real + (1.0 - zeta) * fake


def gradient_penalty(gradients: Any) -> Any:
    """The squared distance of each sample's gradient norm from 1, averaged (eq. 6).

    Args:
        gradients: Float [B, H, W, 3], of the score with respect to the interpolated images.
    """
    # The small constant keeps the square root's gradient finite where a gradient is zero.
    squares = ops.sum(ops.square(gradients), axis=(1, 2, 3))
    return ops.mean(ops.square(ops.sqrt(squares + 1e-12) - 1.0))


def r1(gradients: Any) -> Any:
    """Half the squared gradient norm, averaged (Mescheder et al. 2018, eq. 9, without its weight).

    Args:
        gradients: Float [B, H, W, 3], of the score with respect to the real images.
    """
    return 0.5 * ops.mean(ops.sum(ops.square(gradients), axis=(1, 2, 3)))


def discriminator(
    real_score: Any, fake_score: Any, penalty: Any, penalty_weight: float, drift_weight: float
) -> Any:
    """The discriminator's loss, WGAN-GP with drift (eq. 6).

    Args:
        real_score: Float [B, 1].
        fake_score: Float [B, 1].
        penalty: Scalar of `gradient_penalty`.
        penalty_weight: λ.
        drift_weight: ε.
    """
    drift = ops.mean(ops.square(real_score))
    distance = ops.mean(real_score) - ops.mean(fake_score)
    return -distance + penalty_weight * penalty + drift_weight * drift


def encoder(
    reconstruction: Any,
    images: Any,
    reconstruction_features: Any,
    features: Any,
    feature_term: FeatureTerm = FeatureTerm.sum,
) -> Any:
    """The encoder's loss (eq. 7): L1 on pixels plus squared distance of features.

    The whole loss is divided by the number of values of an image, so that its first term is the
    mean absolute difference at every resolution.

    Args:
        reconstruction: Float [B, H, W, 3], the unshifted composites of G(E(x)).
        images: Float [B, H, W, 3], x.
        reconstruction_features: Float [B, 8, 8, C], the discriminator's features of the
            reconstruction.
        features: Float [B, 8, 8, C], those of the images.
        feature_term: `sum` for the paper's ratio of the two terms, `mean` for a mean over the
            features.

    Returns:
        Scalar.
    """
    pixels = ops.mean(ops.abs(reconstruction - images))
    distance = ops.mean(ops.square(reconstruction_features - features))
    if feature_term == FeatureTerm.sum:
        distance *= math.prod(features.shape[1:]) / math.prod(images.shape[1:])
    return pixels + distance
