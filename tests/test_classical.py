"""Classical augmentation against closed forms, naive loops, torchvision and kornia."""

import json
import math
import pickle
from typing import Any

import kornia
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ganaug.classical import ClassicalAugmentation, ClassicalConfig
from ganaug.classical_ops import hashed_normal
from ganaug.interfaces import UserInputError
from ganaug.rng import uniforms

PROBABILITIES = ("flip_p", "affine_p", "crop_p", "color_p", "noise_p", "blur_p", "erase_p")


def config_with(p: float, **others: Any) -> ClassicalConfig:
    """Every operation with probability ``p``, but for what ``others`` say."""
    return ClassicalConfig(**{**dict.fromkeys(PROBABILITIES, p), **others})


NEVER, OFTEN, ALWAYS = config_with(0.0), config_with(0.7), config_with(1.0)

# Parameters that each column of uniforms decides, in order. Recorded augmentations depend on this layout.
AFFINE = ("angle_deg", "translate_x", "translate_y", "scale")
CROP = ("crop_x", "crop_y", "crop_size")
COLOR = ("brightness", "contrast", "saturation", "hue")
ERASE = ("erase_x", "erase_y", "erase_width", "erase_height")
COLUMN_DECIDES = [
    *(("flip",), AFFINE, ("angle_deg",), ("translate_x",), ("translate_y",), ("scale",)),
    *(CROP, ("crop_size",), ("crop_x",), ("crop_y",)),
    *(COLOR, ("brightness",), ("contrast",), ("saturation",), ("hue",)),
    *(("noise_std", "noise_seed"), ("noise_std",), ("noise_seed",), ("blur_sigma",), ("blur_sigma",)),
    *(ERASE, ERASE, ERASE, ("erase_x",), ("erase_y",)),
]


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def keyed_params(config: ClassicalConfig, batch: int, seed: int = 0) -> dict[str, Tensor]:
    augmentation = ClassicalAugmentation(config)
    return augmentation.make_params(
        torch.from_numpy(uniforms(seed, 0, range(batch), "classical", augmentation.num_uniforms))
    )


def only(batch: int = 1, **values: Any) -> dict[str, Tensor]:
    """Identity parameters but for ``values``."""
    params = keyed_params(NEVER, batch)
    for name, value in values.items():
        params[name] = torch.full_like(params[name], value)
    return params


def rows(params: dict[str, Tensor], index: slice | Tensor) -> dict[str, Tensor]:
    return {name: values[index] for name, values in params.items()}


def test_identity_is_bit_exact_and_input_is_not_written() -> None:
    images = random_images(4, 3, 21, 30)
    images[0, :, :2], images[1, :, :2] = 0.0, 1.0
    before = images.clone()
    result = ClassicalAugmentation()(images, keyed_params(NEVER, 4))
    assert torch.equal(result, before)
    ClassicalAugmentation()(images, keyed_params(OFTEN, 4))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "change",
    [
        *({"flip": 1.0}, {"angle_deg": 20.0}, {"translate_y": 0.1}, {"crop_size": 0.8}, {"brightness": 0.8}),
        *(
            {"contrast": 1.3},
            {"saturation": 0.5},
            {"hue": 0.1},
            {"noise_std": 0.1, "noise_seed": 5},
            {"blur_sigma": 1.0},
        ),
        {"erase_width": 0.5, "erase_height": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_operation_leaves_inactive_neighbours_bit_exact(change: dict[str, float]) -> None:
    images = random_images(3, 3, 19, 24)
    params = keyed_params(NEVER, 3)
    for name, value in change.items():
        params[name][1] = value
    result = ClassicalAugmentation()(images, params)
    assert torch.equal(result[[0, 2]], images[[0, 2]])
    assert not torch.equal(result[1], images[1])


def test_flip_is_exact() -> None:
    images = random_images(2, 3, 16, 23)
    assert torch.equal(ClassicalAugmentation()(images, only(2, flip=1.0)), images.flip(-1))


@pytest.mark.parametrize(("angle", "turns"), [(90.0, 1), (-90.0, -1), (180.0, 2)])
def test_quarter_turns(angle: float, turns: int) -> None:
    images = random_images(2, 3, 17, 17)
    rotated = ClassicalAugmentation()(images, only(2, angle_deg=angle))
    torch.testing.assert_close(rotated, torch.rot90(images, turns, (-2, -1)), atol=2e-5, rtol=0)


def test_translation_by_whole_pixels_mirrors_the_border() -> None:
    images = random_images(2, 3, 16, 20)
    moved = ClassicalAugmentation()(images, only(2, translate_x=2 / 20, translate_y=-3 / 16))
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (0, 3), (2, 0)), mode="symmetric"))
    torch.testing.assert_close(moved, padded[:, :, 3:, :20], atol=2e-5, rtol=0)


def test_crop_equals_enlarged_window() -> None:
    images = random_images(2, 3, 16, 24)
    cropped = ClassicalAugmentation()(images, only(2, crop_size=0.5, crop_x=1.0, crop_y=0.0))
    window = torch.nn.functional.interpolate(images[:, :, :8, 12:], (16, 24), mode="bilinear", align_corners=False)
    # At the window's inner border the crop still sees the pixels outside; interpolate repeats the last one inside.
    torch.testing.assert_close(cropped[:, :, 1:-1, 1:-1], window[:, :, 1:-1, 1:-1], atol=2e-5, rtol=0)


def naive_warp(image: NDArray[np.float64], forward: NDArray[np.float64]) -> NDArray[np.float64]:
    """``image (3, H, W)`` moved by the 3x3 ``forward`` map of (x, y, 1) in pixels: mirrored border, bilinear, loops."""
    _, height, width = image.shape
    backward = np.linalg.inv(forward)
    padded = np.pad(image, ((0, 0), (height, height), (width, width)), mode="symmetric")
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y, _ = backward @ np.array([column + 0.5, row + 0.5, 1.0]) + [width - 0.5, height - 0.5, 0.0]
            left, top = math.floor(x), math.floor(y)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
                result[:, row, column] += weight * padded[:, top + dy, left + dx]
    return result


def test_composed_geometry_equals_naive_warp() -> None:
    height, width = 14, 22
    images = random_images(1, 3, height, width)
    angle, shift_x, shift_y, scale, size, crop_x, crop_y = 25.0, 0.07, -0.11, 1.15, 0.8, 0.3, 0.9
    move = {"angle_deg": angle, "translate_x": shift_x, "translate_y": shift_y, "scale": scale}
    params = only(1, flip=1.0, crop_size=size, crop_x=crop_x, crop_y=crop_y, **move)

    def shift(x: float, y: float) -> NDArray[np.float64]:
        return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])

    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    flip = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])  # counter-clockwise, y pointing down
    affine = shift(width * (0.5 + shift_x), height * (0.5 + shift_y)) @ turn @ shift(-width / 2, -height / 2)
    crop = np.diag([1 / size, 1 / size, 1.0]) @ shift(-crop_x * (1 - size) * width, -crop_y * (1 - size) * height)
    expected = naive_warp(images[0].double().numpy(), crop @ affine @ flip)
    result = ClassicalAugmentation()(images, params)[0].double().numpy()
    np.testing.assert_allclose(result, expected, atol=5e-5)


def test_geometry_never_shows_black() -> None:
    config = config_with(0.0, affine_p=1.0, rotation_deg=180.0, translate=1.0, scale=(0.1, 1.0))
    images = torch.full((16, 3, 20, 31), 0.7)
    torch.testing.assert_close(ClassicalAugmentation(config)(images, keyed_params(config, 16)), images)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.5])
def test_blur_equals_naive_sum(sigma: float) -> None:
    images = random_images(1, 3, 13, 18)
    radius = 5  # ceil(3 * 1.5), from the default configuration
    weights = np.array([math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)])
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    padded = np.pad(images[0].double().numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
    expected = np.zeros((3, 13, 18))
    for row in range(13):
        for column in range(18):
            patch = padded[:, row : row + 2 * radius + 1, column : column + 2 * radius + 1]
            expected[:, row, column] = (patch * kernel).sum((1, 2))
    result = ClassicalAugmentation()(images, only(blur_sigma=sigma))[0].double().numpy()
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_blur_wider_than_the_image() -> None:
    augmentation = ClassicalAugmentation(ClassicalConfig(blur_sigma=(0.1, 20.0)))
    result = augmentation(random_images(1, 3, 8, 9), only(blur_sigma=20.0))
    assert result.std((2, 3)).max() < 0.1


@pytest.mark.parametrize("factor", [0.4, 0.8, 1.2, 1.7])
def test_color_factors(factor: float) -> None:
    images = random_images(3, 3, 15, 22)
    augment = ClassicalAugmentation()
    brightness, contrast, saturation = (augment(images, only(3, **{name: factor})) for name in COLOR[:3])
    torch.testing.assert_close(brightness, tv.adjust_brightness(images, factor))
    # torchvision's weight of red is 0.2989 where kornia and the standard have 0.299.
    torch.testing.assert_close(contrast, tv.adjust_contrast(images, factor), atol=2e-4, rtol=0)
    torch.testing.assert_close(saturation, tv.adjust_saturation(images, factor), atol=2e-4, rtol=0)
    reference = kornia.enhance.adjust_contrast_with_mean_subtraction(images, factor)
    torch.testing.assert_close(contrast, reference, atol=2e-6, rtol=0)
    reference = kornia.enhance.adjust_saturation_with_gray_subtraction(images, factor)
    torch.testing.assert_close(saturation, reference, atol=2e-6, rtol=0)


@pytest.mark.parametrize("turns", [-0.5, -0.13, 0.02, 0.31])
def test_hue(turns: float) -> None:
    images = random_images(3, 3, 15, 22)
    images[0, :, :3] = 0.25  # grey, which has no hue
    images[0, :, 3:5] = torch.tensor([0.6, 0.6, 0.1])[:, None, None]  # ties for the largest channel
    images[0, :, 5:7] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    result = ClassicalAugmentation()(images, only(3, hue=turns))
    torch.testing.assert_close(result, tv.adjust_hue(images, turns), atol=1e-5, rtol=0)
    torch.testing.assert_close(result, kornia.enhance.adjust_hue(images, 2 * math.pi * turns), atol=1e-5, rtol=0)


def test_color_order_is_brightness_contrast_saturation_hue() -> None:
    images = random_images(1, 3, 12, 12)
    together = ClassicalAugmentation()(images, only(brightness=1.5, contrast=0.5, saturation=2.0, hue=0.1))
    expected = images
    for name, value in (("brightness", 1.5), ("contrast", 0.5), ("saturation", 2.0), ("hue", 0.1)):
        expected = ClassicalAugmentation()(expected, only(1, **{name: value}))
    torch.testing.assert_close(together, expected, atol=1e-6, rtol=0)


def test_hashed_normal_is_normal_and_white() -> None:
    noise = hashed_normal(torch.arange(8), (3, 112, 113)).double()
    count = noise[0].numel()
    assert noise.dtype == torch.float64 and noise.shape == (8, 3, 112, 113)
    # Five standard errors of the mean, the variance and the fourth moment of a normal distribution.
    assert noise.mean((1, 2, 3)).abs().max() < 5 / math.sqrt(count)
    assert (noise.var((1, 2, 3)) - 1).abs().max() < 5 * math.sqrt(2 / count)
    assert (noise.pow(4).mean((1, 2, 3)) - 3).abs().max() < 5 * math.sqrt(96 / count)
    for shift in (1, 2, 7, 112, 113, 114, 112 * 113, count // 2):  # neighbours, rows, channels, the two halves
        flat = noise.flatten(1)
        correlation = (flat[:, shift:] * flat[:, :-shift]).mean(1)
        assert correlation.abs().max() < 5 / math.sqrt(count - shift), shift
    between_seeds = (flat @ flat.T / count - torch.eye(8)).fill_diagonal_(0.0)
    assert between_seeds.abs().max() < 5 / math.sqrt(count)
    # Share beyond two standard deviations: 0.0455 (tables of the normal distribution).
    assert abs((noise.abs() > 2).double().mean().item() - 0.0455) < 5 * math.sqrt(0.0455 / noise.numel())


def test_hashed_normal_equals_python_integers() -> None:
    def lowbias32(word: int) -> int:
        word = (word ^ (word >> 16)) * 0x7FEB352D % 2**32
        word = (word ^ (word >> 15)) * 0x846CA68B % 2**32
        return word ^ (word >> 16)

    seed, count = 2**32 - 7, 9
    words = [lowbias32(lowbias32(seed) ^ lowbias32(position)) for position in range(1, 6)]
    levels = torch.tensor([word % 2**16 for word in words] + [word // 2**16 for word in words])[:count]
    expected = torch.special.ndtri((levels.double() + 0.5) / 2**16)
    result = hashed_normal(torch.tensor([seed]), (count,))[0]
    torch.testing.assert_close(result.double(), expected, atol=0, rtol=2e-4)  # the table is scaled to unit variance


def test_noise_strength() -> None:
    result = ClassicalAugmentation()(torch.full((2, 3, 64, 64), 0.5), only(2, noise_std=0.05, noise_seed=11))
    assert torch.equal(result[0], result[1])
    assert abs(result[0].std().item() - 0.05) < 0.002


def test_erase_fills_exactly_the_rectangle() -> None:
    images = random_images(2, 3, 20, 40)
    result = ClassicalAugmentation()(images, only(2, erase_x=0.25, erase_y=0.5, erase_width=0.1, erase_height=0.3))
    expected = images.clone()
    expected[:, :, 10:16, 10:14] = 0.5
    assert torch.equal(result, expected)


def test_drawn_rectangles_have_area_and_aspect_and_lie_inside() -> None:
    config = ClassicalConfig(erase_p=1.0)
    params = keyed_params(config, 2000)
    x, y, width, height = (params[name].double() for name in ERASE)
    area, aspect = width * height, width / height
    assert area.min() > 0.0199 and area.max() < 0.1201 and abs(area.mean() - 0.07) < 0.005
    assert aspect.min() > 0.499 and aspect.max() < 2.001 and aspect.log().mean().abs() < 0.05
    assert min(x.min(), y.min()) >= 0 and max((x + width).max(), (y + height).max()) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("batch", "size"),
    # The last has more pixels than torch sums in one go: there a mean over a single image is split among threads.
    [(8, (37, 53)), (8, (8, 9)), (2, (112, 112)), (2, (256, 200))],
)
def test_rows_do_not_depend_on_their_batch(batch: int, size: tuple[int, int]) -> None:
    images = random_images(batch, 3, *size)
    params = keyed_params(ALWAYS, batch)
    augmentation = ClassicalAugmentation(ALWAYS)
    together = augmentation(images, params)
    alone = [augmentation(images[row : row + 1], rows(params, slice(row, row + 1))) for row in range(batch)]
    assert torch.equal(together, torch.cat(alone))
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4]) % batch
    assert torch.equal(together[order], augmentation(images[order], rows(params, order)))
    in_other_memory_order = augmentation(images.to(memory_format=torch.channels_last), params)
    assert torch.equal(together, in_other_memory_order)


def test_drawn_rows_do_not_depend_on_their_batch() -> None:
    together, few = keyed_params(OFTEN, 50), keyed_params(OFTEN, 3)
    assert all(torch.equal(together[name][:3], few[name]) for name in together)


def test_activation_frequencies() -> None:
    config, count = ClassicalConfig(), 4000
    params = keyed_params(config, count)
    active = {
        "flip_p": params["flip"],
        "affine_p": params["angle_deg"] != 0,
        "crop_p": params["crop_size"] != 1,
        "color_p": params["brightness"] != 1,
        "noise_p": params["noise_std"] != 0,
        "blur_p": params["blur_sigma"] != 0,
        "erase_p": params["erase_width"] != 0,
    }
    for name, switch in active.items():
        p = getattr(config, name)
        assert abs(switch.double().mean().item() - p) < 4 * math.sqrt(p * (1 - p) / count), name
    # Independent of each other: correlations within four standard errors.
    correlations = torch.corrcoef(torch.stack([switch.double() for switch in active.values()])).fill_diagonal_(0.0)
    assert correlations.abs().max() < 4 / math.sqrt(count)
    identity = keyed_params(NEVER, 1)
    groups = {"affine_p": AFFINE, "crop_p": CROP, "color_p": COLOR, "noise_p": ("noise_seed",), "erase_p": ERASE}
    for name, members in groups.items():
        for member in members:
            assert (params[member][~active[name]] == identity[member]).all(), member
    assert params["noise_seed"].unique().numel() > 0.18 * count


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=25, max_size=25))
def test_parameters_stay_in_bounds_and_survive_json(numbers: list[float]) -> None:
    params = ClassicalAugmentation(ALWAYS).make_params(torch.tensor([numbers], dtype=torch.float64))
    bounds = {
        **{"angle_deg": (-10, 10), "translate_x": (-0.05, 0.05), "translate_y": (-0.05, 0.05), "scale": (0.9, 1.1)},
        **{"crop_x": (0, 1), "crop_y": (0, 1), "crop_size": (math.sqrt(0.8), 1), "brightness": (0.8, 1.2)},
        **{"contrast": (0.8, 1.2), "saturation": (0.8, 1.2), "hue": (-0.02, 0.02), "noise_std": (0, 0.04)},
        **{"noise_seed": (0, 2**32 - 1), "blur_sigma": (0.1, 1.5)},
    }
    for name, (low, high) in bounds.items():
        assert low - 1e-6 <= params[name].item() <= high + 1e-6, name
    restored = json.loads(json.dumps({name: values.tolist() for name, values in params.items()}))
    for name, values in params.items():
        assert torch.equal(torch.tensor(restored[name], dtype=values.dtype), values), name


def test_replay_through_json_is_bitwise() -> None:
    images, params = random_images(16, 3, 24, 31), keyed_params(OFTEN, 16)
    text = json.dumps({name: values.tolist() for name, values in params.items()})
    restored = {name: torch.tensor(values) for name, values in json.loads(text).items()}
    assert {name: values.dtype for name, values in restored.items()} == {
        name: values.dtype for name, values in params.items()
    }
    augmentation = ClassicalAugmentation(OFTEN)
    again = pickle.loads(pickle.dumps(augmentation))
    assert again.config == OFTEN
    assert torch.equal(augmentation(images, params), again(images, restored))


def test_each_column_decides_its_parameters() -> None:
    augmentation = ClassicalAugmentation(config_with(0.5))
    assert augmentation.num_uniforms == len(COLUMN_DECIDES)
    base = torch.full((1, augmentation.num_uniforms), 0.3)
    before = augmentation.make_params(base)
    for column, names in enumerate(COLUMN_DECIDES):
        changed = base.clone()
        changed[0, column] = 0.9
        after = augmentation.make_params(changed)
        assert {name for name in after if not torch.equal(after[name], before[name])} == set(names), column


def test_result_is_in_range_and_torch_rng_is_untouched() -> None:
    state = torch.get_rng_state()
    config = config_with(1.0, noise_std=(0.3, 0.5), brightness=1.0, contrast=1.0)
    result = ClassicalAugmentation(config)(random_images(16, 3, 30, 20), keyed_params(config, 16))
    assert result.dtype == torch.float32 and result.shape == (16, 3, 30, 20)
    assert result.min() == 0 and result.max() == 1 and torch.isfinite(result).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_empty_batch() -> None:
    params = keyed_params(OFTEN, 0)
    assert ClassicalAugmentation()(torch.zeros(0, 3, 16, 12), params).shape == (0, 3, 16, 12)
    restored = {name: torch.tensor(values.tolist()) for name, values in params.items()}
    assert ClassicalAugmentation()(torch.zeros(0, 3, 16, 12), restored).shape == (0, 3, 16, 12)


def test_nothing_waits_for_the_device() -> None:
    # Tensors on the meta device have no values: reading one, or a shape that depends on one, raises.
    params = ClassicalAugmentation().make_params(torch.empty(4, ClassicalAugmentation.num_uniforms, device="meta"))
    assert ClassicalAugmentation()(torch.empty(4, 3, 16, 20, device="meta"), params).shape == (4, 3, 16, 20)


def test_first_use_in_inference_mode_does_not_poison_later_gradients() -> None:
    params = keyed_params(ALWAYS, 2)
    with torch.inference_mode():
        ClassicalAugmentation()(random_images(2, 3, 16, 16), params)
    images = random_images(2, 3, 16, 16).requires_grad_()
    ClassicalAugmentation()(images, params).sum().backward()
    assert images.grad is not None and torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip_p": 1.5}, r"flip_p must be a number in \[0, 1\], got 1.5"),
        ({"flip_p": True}, "flip_p must be a number"),
        ({"blur_p": float("nan")}, "blur_p must be"),
        ({"rotation_deg": -1}, r"rotation_deg must be a number in \[0, 180\], got -1"),
        ({"hue": 0.6}, r"hue must be a number in \[0, 0.5\]"),
        ({"translate": "0.1"}, "translate must be a number .* got '0.1'"),
        ({"scale": 1.1}, r"scale must be two numbers in ascending order in \[0.1, 10\], got 1.1"),
        ({"crop_scale": (1.0, 0.8)}, "crop_scale must be two numbers in ascending order"),
        ({"noise_std": (0.0, 0.1, 0.2)}, "noise_std must be two numbers"),
        ({"blur_sigma": (0.1, math.inf)}, "blur_sigma must be two numbers"),
        ({"erase_aspect": (0.0, 1.0)}, "erase_aspect must be two numbers"),
    ],
)
def test_bad_configuration_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        ClassicalConfig(**arguments)


def test_configuration_from_json() -> None:
    config = ClassicalConfig(**json.loads('{"scale": [1, 2], "rotation_deg": 5}'))
    assert (
        config.scale == (1.0, 2.0)
        and config.rotation_deg == 5.0
        and hash(config) == hash(pickle.loads(pickle.dumps(config)))
    )


def test_bad_tensors_are_refused() -> None:
    augmentation = ClassicalAugmentation()
    with pytest.raises(UserInputError, match=r"uniforms must be floating point of shape \(B, 25\)"):
        augmentation.make_params(torch.zeros(4, 3))
    for images in (torch.zeros(1, 3, 16, 7), torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)):
        with pytest.raises(UserInputError, match="images must be float32"):
            augmentation(images, only())
    with pytest.raises(
        UserInputError, match=r"params\['flip'\] must be of shape \(2,\) like the images, got shape \(1,\)"
    ):
        augmentation(torch.zeros(2, 3, 16, 16), only())
    params = only()
    del params["hue"]
    with pytest.raises(UserInputError, match=r"params\['hue'\] .* got nothing"):
        augmentation(torch.zeros(1, 3, 16, 16), params)
