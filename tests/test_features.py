from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from conftest import Project, call_stage
from grocery.core.arrays import load_arrays
from grocery.core.linear import rowwise_product, unit_length
from grocery.features.colour import DIMENSIONS, colour_descriptor
from grocery.features.encoder import KIND
from grocery.features.fisher import FisherVector, Grid, fit_fisher, local_descriptors
from grocery.features.mixture import fit_mixture
from grocery.features.projection import fit_projection
from grocery.settings import load

TWO_SCALES = Grid(4, [1.0, 0.5], 2.0, align=True)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def fitted() -> FisherVector:
    samples = local_descriptors(IMAGE, Grid(4, [1.0], 1.0, align=False))
    rng = np.random.default_rng(0)
    return fit_fisher(samples, TWO_SCALES, dimensions=12, components=4, rng=rng)


class TestLocalDescriptors:
    def test_one_window_by_hand(self) -> None:
        image = IMAGE[:8, :8]
        (found,) = local_descriptors(image, Grid(2, [1.0], 3.0, align=False))
        rgb = image.astype(np.float64) / 255
        brightness = rgb.sum(axis=2) / np.sqrt(3)
        cells = brightness.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 4)
        red_green = 3 * (rgb[..., 0] - rgb[..., 1]) / np.sqrt(2)
        others = red_green.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 4)
        pattern, average = found[:96].reshape(6, 16), found[96:]
        assert average[2] == pytest.approx(cells.mean(), abs=1e-5)
        assert average[5] == pytest.approx(cells.std(axis=1).mean(), abs=1e-5)
        assert average[0] == pytest.approx(others.mean(), abs=1e-5)
        # The pattern is the rest, divided by one contrast.
        ratio = (cells.mean(axis=1) - cells.mean()) / pattern[2]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
        same = (others.std(axis=1) - others.std(axis=1).mean()) / pattern[3]
        np.testing.assert_allclose(same, ratio[0], rtol=1e-2)

    def test_half_the_light_is_the_same_pattern(self) -> None:
        grid = Grid(4, [1.0], 3.0, align=False)
        light, dim = (local_descriptors(image, grid)[:, :96] for image in (IMAGE, IMAGE // 2))
        cosine = (light * dim).sum(1) / np.linalg.norm(light, axis=1) / np.linalg.norm(dim, axis=1)
        assert cosine.min() > 0.98
        assert len(light) == (12 - 3) * (16 - 3)  # windows

    @pytest.mark.parametrize("turns", range(4))
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_aligned_windows_are_those_of_a_turned_image(self, turns: int, mirrored: bool) -> None:
        """The same descriptors, at other places."""
        turned = np.ascontiguousarray(np.rot90(IMAGE[:, ::-1] if mirrored else IMAGE, turns))

        def apart(align: bool) -> float:
            grid = Grid(4, [1.0], 3.0, align=align)
            found = [local_descriptors(image, grid) for image in (turned, IMAGE)]
            # In the order of the averages, which stay.
            one, other = (each[np.lexsort(each[:, 96:].T.round(4))] for each in found)
            return float(np.abs(one - other).max())

        assert apart(align=True) < 1e-3
        assert (apart(align=False) > 0.5) == (turns > 0 or mirrored)
        # They brighten to the bottom, and to the right at least as much.
        found = local_descriptors(turned, Grid(4, [1.0], 3.0, align=True))
        brightness = found[:, 32:48].reshape(-1, 4, 4)
        sides = (np.einsum(f"nrx,{side}->n", brightness, np.arange(4) - 1.5) for side in "rx")
        downward, rightward = sides
        assert downward.min() >= 0
        assert (rightward - downward).min() >= 0

    @pytest.mark.parametrize("shape", [(1, 1, 3), (3, 200, 3), (33, 17, 3)])
    def test_any_shape_of_image(self, shape: tuple[int, ...]) -> None:
        found = local_descriptors(np.zeros(shape, np.uint8), TWO_SCALES)
        assert len(found) >= 2
        assert np.isfinite(found).all()


class TestFisher:
    def test_the_vector_is_the_gradient_of_the_likelihood(self) -> None:
        """Against the definition, computed the slow way in double precision."""
        fisher = fitted()
        points = fisher.projection(local_descriptors(IMAGE, TWO_SCALES)).astype(float)
        mixture = (fisher.mixture.weights, fisher.mixture.means, fisher.mixture.variances)
        weights, means, variances = (array.astype(float) for array in mixture)
        log = np.log(weights) - 0.5 * (
            ((points[:, None] - means) ** 2 / variances) + np.log(2 * np.pi * variances)
        ).sum(axis=2)
        gamma = np.exp(log - log.max(axis=1, keepdims=True))
        gamma /= gamma.sum(axis=1, keepdims=True)
        z = (points[:, None] - means) / np.sqrt(variances)
        scale = len(points) * np.sqrt(weights)[:, None]
        by_mean = (gamma[..., None] * z).sum(axis=0) / scale
        by_variance = (gamma[..., None] * (z**2 - 1)).sum(axis=0) / (scale * np.sqrt(2))
        expected = np.concatenate([by_mean, by_variance]).ravel()
        expected = np.sign(expected) * np.sqrt(np.abs(expected))
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(fisher(IMAGE), expected, atol=2e-3)
        again = FisherVector.from_arrays(fisher.arrays(), TWO_SCALES)
        assert (again(IMAGE) == fisher(IMAGE)).all()

    @pytest.mark.parametrize(
        "change",
        [
            *({"cell": cell} for cell in (1, 33, 4.0)),
            *({"scales": scales} for scales in ([], [0.5] * 9, [1.01], [0.05], ["1"])),
            *({"chroma": chroma} for chroma in (0.0, float("nan"))),
            {"align": 1},
        ],
    )
    def test_a_grid_that_no_params_file_could_ask_for(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="grid"):
            replace(TWO_SCALES, **change)

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("local_components", np.zeros((102, 103), np.float32)),
            ("mixture_weights", np.ones(1025, np.float32)),
            ("mixture_weights", np.ones(4, np.float64)),
            ("mixture_means", np.zeros((10**9, 0), np.float32)),
            ("mixture_variances", np.zeros((4, 12, 1), np.float32)),
        ],
    )
    def test_arrays_of_another_shape(self, name: str, array: np.ndarray) -> None:
        arrays = fitted().arrays() | {name: array}
        with pytest.raises(ValueError, match=r"its (local|mixture)_"):
            FisherVector.from_arrays(arrays, TWO_SCALES)


class TestMixture:
    def test_as_likely_as_scikit_learns(self) -> None:
        points = np.concatenate([RNG.normal(m, s, (300, 2)) for m, s in ((0, 1), (6, 0.5))])
        points = points.astype(np.float32)
        ours = fit_mixture(points, components=2, iterations=50, rng=np.random.default_rng(0))
        theirs = GaussianMixture(2, covariance_type="diag", random_state=0).fit(points)
        order, their_order = np.argsort(ours.means[:, 0]), np.argsort(theirs.means_[:, 0])
        for found, expected in (
            (ours.means, theirs.means_),
            (ours.variances, theirs.covariances_),
            (ours.weights, theirs.weights_),
        ):
            np.testing.assert_allclose(found[order], expected[their_order], rtol=0.01, atol=0.005)

    def test_equal_points_do_not_collapse(self) -> None:
        points = np.ones((50, 3), np.float32)
        mixture = fit_mixture(points, components=4, iterations=5, rng=np.random.default_rng(0))
        mass, first, _ = mixture.statistics(points)
        assert mass.sum() == pytest.approx(50)
        np.testing.assert_allclose(first.sum(axis=0), 50, rtol=1e-5)


class TestProjection:
    @pytest.mark.parametrize("shape", [(200, 30), (30, 200)])
    def test_as_scikit_learns_pca(self, shape: tuple[int, int]) -> None:
        spread = np.linspace(1, 5, shape[1])
        points = (RNG.normal(size=shape).astype(np.float32) * spread).astype(np.float32)
        ours = fit_projection(points, dimensions=10, whitening=1)(points)
        theirs = PCA(10, whiten=True, svd_solver="full").fit_transform(points)
        theirs *= np.sqrt(len(points) / (len(points) - 1))  # they divide by n - 1
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=2e-3)

    def test_a_rows_bytes_do_not_depend_on_the_other_rows(self) -> None:
        points = RNG.normal(size=(37, 300)).astype(np.float32)
        matrix = RNG.normal(size=(300, 21)).astype(np.float32)
        whole = rowwise_product(points, matrix)
        np.testing.assert_allclose(whole, points @ matrix, atol=1e-4)
        for first, last in ((0, 1), (5, 6), (5, 20), (36, 37), (17, 37)):
            assert (rowwise_product(points[first:last], matrix) == whole[first:last]).all()

    def test_hardly_any_variance_is_stored_as_finite_numbers(self) -> None:
        points = (np.ones((30, 40)) + 1e-5 * RNG.normal(size=(30, 40))).astype(np.float32)
        projection = fit_projection(points, dimensions=5, whitening=1)
        assert np.isfinite(projection.components.astype(np.float16)).all()
        assert np.abs(projection.components).max() <= 1.001
        np.testing.assert_allclose(projection(points).std(axis=0), 1, rtol=0.1)

    def test_no_more_components_than_the_data_have(self) -> None:
        points = np.outer(np.arange(20), [1, 2, 3]).astype(np.float32)
        assert fit_projection(points, dimensions=3, whitening=1).components.shape == (3, 1)

    def test_unit_length_keeps_a_zero_row(self) -> None:
        found = unit_length(np.array([[3, 4], [0, 0]], np.float32))
        np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_the_seed_decides_what_the_encoder_is_fitted_on(project: Project) -> None:
    """The images are the same, all of training; their descriptors and the vocabulary are drawn."""
    params = load(project.path / "params.yaml").featurize.model_copy(update={"fit_images": 10_000})
    found = []
    for seed in (0, 1):
        call_stage("featurize", params.model_copy(update={"seed": seed}), root=project.path)
        found.append(load_arrays(project.path / "models/encoder", KIND)[0])
    assert any(not np.array_equal(array, found[1][name]) for name, array in found[0].items())


def plain(colour: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def noise(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return float(colour_descriptor(a) @ colour_descriptor(b))


@pytest.mark.parametrize(
    "pixels",
    [noise(0), plain((0, 0, 0)), plain((9, 200, 30), 1, 1), noise(1, 3, 500)],
    ids=["noise", "black", "one pixel", "thin"],
)
def test_the_colour_descriptor_is_a_unit_vector(pixels: np.ndarray) -> None:
    """Of the pixels alone, and not of what lies beside them in memory."""
    padded = np.pad(pixels, ((5, 5), (5, 5), (0, 0)))
    descriptor = colour_descriptor(padded[5:-5, 5:-5])
    assert np.array_equal(descriptor, colour_descriptor(pixels))
    assert (descriptor.shape, descriptor.dtype) == ((DIMENSIONS,), np.dtype(np.float32))
    assert (descriptor >= 0).all()
    assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-6)


def test_what_matters_to_it() -> None:
    """The colour, where it lies, and which way edges run; the size and a little hue hardly."""
    red, small = plain((200, 30, 30)), noise(3, 40, 40)
    for one, other, least in (
        (red, plain((200, 30, 30), 80, 90), 0.999),
        (small, small.repeat(2, axis=0).repeat(2, axis=1), 0.95),
        (plain((200, 30, 36)), plain((200, 36, 30)), 0.999),  # at either end of the hue circle
        (plain((120, 120, 120)), plain((124, 120, 118)), 0.999),  # grey has no hue
    ):
        assert similarity(one, other) > least
    assert similarity(red, plain((210, 40, 40))) > similarity(red, plain((200, 120, 30)))
    assert similarity(red, plain((30, 30, 200))) == pytest.approx(0, abs=1e-6)
    left, right = plain((240, 240, 240)), plain((240, 240, 240))
    left[:, :30] = right[:, 30:] = (200, 30, 30)
    assert similarity(left, left) > similarity(left, right) + 0.1
    across, down = plain((90, 90, 90), 48, 48), plain((90, 90, 90), 48, 48)
    across[np.arange(48) // 6 % 2 == 0] = 160
    down[:, np.arange(48) // 6 % 2 == 0] = 160
    assert similarity(across, across) > similarity(across, down) + 0.05
