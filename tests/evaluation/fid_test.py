import numpy as np
import pytest

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import fid


def vectors(seed, count, size=8):
    """Correlated Gaussian vectors, the same with every NumPy."""
    state = np.random.RandomState(seed)
    mix = state.randn(size, size) / np.sqrt(size)
    return state.randn(count, size) @ mix + 0.3 * state.randn(size)


def moments(values, batch=7):
    found = fid.Moments(values.shape[1])
    for first in range(0, len(values), batch):
        found.update(values[first : first + batch])
    return found


@pytest.mark.parametrize("batch", [1, 7, 50, 200])
def test_moments_of_batches_equal_those_of_all_vectors(batch):
    values = vectors(0, 200) + 1e4  # far from the origin, where sums of squares lose digits
    found = moments(values, batch)
    assert found.count == 200
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(values, rowvar=False), rtol=1e-8)


def test_moments_need_two_finite_vectors():
    with pytest.raises(ValueError, match="two vectors"):
        _ = moments(vectors(0, 1)).covariance
    with pytest.raises(UserError, match="not finite"):
        moments(np.full((3, 2), np.nan))


def test_hand_computed_distances():
    # Of independent coordinates: (Δμ)² + (σa - σb)², summed.
    mean_a, mean_b = np.array([0.0, 1.0]), np.array([3.0, 1.0])
    a, b = np.diag([4.0, 9.0]), np.diag([1.0, 25.0])
    assert fid.frechet_distance(mean_a, a, mean_b, b) == pytest.approx(9 + 1 + 4)
    assert fid.frechet_distance(mean_a, a, mean_a, a) == pytest.approx(0, abs=1e-9)
    # Turned by 45°, Σa Σb is no longer symmetric; distances do not turn.
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
    turned = [turn @ sigma @ turn.T for sigma in (a, b)]
    distance = fid.frechet_distance(turn @ mean_a, turned[0], turn @ mean_b, turned[1])
    assert distance == pytest.approx(9 + 1 + 4)


# `pytorch_fid.fid_score.calculate_frechet_distance` of pytorch-fid 0.3.0 (NumPy 1.26.4, SciPy
# 1.11.4) on mean and np.cov(rowvar=False) of `vectors`; the second and the last are singular.
@pytest.mark.parametrize(
    "first, second, expected",
    [
        ((1, 500), (2, 400), 7.453369778080223),
        ((3, 5), (4, 6), 8.331755602435564),
        ((5, 300, 64), (6, 200, 64), 48.69905428065279),
        ((7, 20, 64), (8, 30, 64), 76.5627579833882),
    ],
)
def test_distances_equal_those_of_pytorch_fid(first, second, expected):
    a, b = moments(vectors(*first)), moments(vectors(*second))
    distance = fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert distance == pytest.approx(expected, rel=1e-6)


def test_singular_covariances():
    zero, mean = np.zeros((2, 2)), np.zeros(2)
    a, b = np.diag([4.0, 0.0]), np.diag([0.0, 9.0])
    assert fid.frechet_distance(mean, a, mean, b) == pytest.approx(4 + 9)
    assert fid.frechet_distance(mean, zero, mean, b) == pytest.approx(9)
    # Σa Σb = [[4, 4], [0, 0]], whose root has the trace 2.
    assert fid.frechet_distance(mean, a, mean, np.ones((2, 2))) == pytest.approx(4 + 2 - 2 * 2)
    few = moments(vectors(9, 4, 32))
    same = fid.frechet_distance(few.mean, few.covariance, few.mean, few.covariance)
    assert same == pytest.approx(0, abs=1e-5)


class Means:
    """Features of an image: its mean colour."""

    name = "mean colour"
    protocol = ""

    def __call__(self, images):
        return images.astype(np.float32).mean(axis=(1, 2))


def batches(seed, count, size):
    images = np.random.RandomState(seed).randint(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return images, (images[first : first + size] for first in range(0, count, size))


def test_measuring_images():
    generated, generated_batches = batches(0, 30, 8)
    real, real_batches = batches(1, 20, 8)
    done = []
    measured = fid.measure(Means(), generated_batches, real_batches, progress=done.append)
    a, b = Means()(generated), Means()(real)
    expected = fid.frechet_distance(
        a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
    )
    assert measured.value == pytest.approx(expected, rel=1e-5)
    assert done == [8, 8, 8, 6, 8, 8, 4]
    results = measured.to_results()
    assert results["fid"] == measured.value and results["features"] == "mean colour"
    assert (results["images"], results["real_images"]) == (30, 20)
    assert results["measure"] == "fid" and results["warning"] == ""


def test_too_few_images():
    measured = fid.measure(Means(), batches(0, 3, 8)[1], batches(1, 30, 8)[1])
    assert "3 images for 3 features" in measured.warning and "10,000" in measured.warning
    with pytest.raises(UserError, match="two real images, there are 0"):
        fid.measure(Means(), batches(0, 3, 8)[1], iter([]))
    with pytest.raises(UserError, match="two generated images, there are 1"):
        fid.measure(Means(), batches(0, 1, 8)[1], batches(1, 30, 8)[1])
