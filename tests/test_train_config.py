"""Hyperparameters of a run: what is refused, the presets, the trip through JSON, the learning rate."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ganaug.errors import UserInputError
from ganaug.training.config import PRESETS, TrainConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "vqvae"}, "family must be one of 'stylegan2', 'vae', got 'vqvae'"),
        ({"loss": "hinge"}, "loss must be one of 'non-saturating', 'wgan-gp', got 'hinge'"),
        ({"precision": "float16"}, "precision must be one of .*None, got 'float16'"),
        *(({"resolution": r}, f"resolution must be a power of two from 16 up, got {r}") for r in (48, 8, 0, -64, 65)),
        ({"resolution": 32}, "32 px need 4 generator_channels, got"),
        ({"discriminator_channels": (8, 8)}, r"64 px need 5 discriminator_channels, got \(8, 8\)"),
        ({"generator_channels": (8, 8, 0, 8, 8)}, "generator_channels must be at least 1 each, got"),
        *(
            ({name: 0}, f"{name} must be at least 1, got 0")
            for name in ("batch_size", "accumulate", "z_dim", "w_dim", "mapping_layers")
        ),
        *(
            ({f"{name}_interval": -1}, f"{name}_interval must be at least 1, got -1")
            for name in ("r1", "pl", "ada", "latent")
        ),
        *(
            ({name: value}, f"{name} must be above 0 and finite, got {value}")
            for name in ("kimg", "learning_rate", "snapshot_kimg", "ada_kimg", "ema_kimg")
            for value in (0, -1.0, math.inf, math.nan)
        ),
        *(
            ({name: value}, f"{name} must lie in 0 to 1, got {value}")
            for name in (
                "augment_p",
                "max_augment_p",
                "style_mixing_p",
                "reconstructed_share",
                "prior_share",
                "pl_decay",
            )
            for value in (-0.1, 1.5, math.nan)
        ),
        ({"decay_fraction": 2.0}, "decay_fraction must lie in 0 to 1, got 2.0"),
        ({"adam_beta2": 1.0}, "adam_beta2 must be at least 0 and below 1, got 1.0"),
        ({"ada_target": 1.2}, "ada_target must lie in -1 to 1, or be None, got 1.2"),
        ({"r1_gamma": -1.0}, "r1_gamma must be at least 0 and finite, got -1.0"),
        ({"pl_weight": math.nan}, "pl_weight must be at least 0 and finite, got nan"),
        ({"kl_weight": -0.1}, "kl_weight must be at least 0 and finite, got -0.1"),
        ({"freeze_d": -1}, "freeze_d must be at least 0, got -1"),
        ({"evaluated_images": -5}, "evaluated_images must be at least 0, got -5"),
    ],
)
def test_values_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=f"^{message}"):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kimgs": 3, "betas": 1}, r"unknown setting\(s\) betas, kimgs; known: .*kimg, "),
        ({"batch_size": "4"}, "batch_size must be of type int, got '4'"),
        ({"batch_size": 4.0}, "batch_size must be of type int, got 4.0"),
        ({"batch_size": True}, "batch_size must be of type int, got True"),
        ({"kimg": None}, "kimg must be of type float, got None"),
        ({"with_encoder": "no"}, "with_encoder must be of type bool, got 'no'"),
        ({"with_encoder": 1}, "with_encoder must be of type bool, got 1"),
        ({"generator_channels": 64}, r"generator_channels must be of type tuple\[int, \.\.\.\], got 64"),
        ({"generator_channels": ["a"]}, r"generator_channels must be of type tuple\[int, \.\.\.\], got \('a',\)"),
        ({"condition": "gender"}, r"condition must be of type tuple\[str, \.\.\.\], got 'gender'"),
        ({"r1_gamma": "auto"}, r"r1_gamma must be of type float \| None, got 'auto'"),
    ],
)
def test_files_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        TrainConfig.from_dict(values)


def test_whole_numbers_and_null_are_fine() -> None:
    config = TrainConfig.from_dict({"kimg": 3, "ada_target": None, "r1_gamma": 1, "condition": ["gender"]})
    assert config == TrainConfig(kimg=3.0, ada_target=None, r1_gamma=1.0, condition=("gender",))


def test_presets_survive_json() -> None:
    sizes = {"tiny64": 64, "small128": 128, "paper256": 256}
    assert list(PRESETS) == list(sizes)
    for name, config in PRESETS.items():
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        generator = config.generator()  # the channel tables fit the resolutions
        assert generator.img_resolution == config.resolution == sizes[name]
        assert len(generator.channels) == len(config.discriminator_channels) and generator.c_dim == 0
        assert config.part_size(1) == config.batch_size
    assert PRESETS["tiny64"].generator((2, 3)).c_dim == 5


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 512])
def test_other_resolutions_keep_the_coarse_channels(resolution: int) -> None:
    base = replace(PRESETS["tiny64"], kimg=3.0)
    config = base.at_resolution(resolution)
    steps = int(math.log2(resolution)) - 1
    common = min(steps, 5)
    assert config.resolution == resolution and config.kimg == 3.0
    assert config.generator_channels[:common] == base.generator_channels[:common]
    assert config.discriminator_channels[-common:] == base.discriminator_channels[-common:]
    assert len(config.generator_channels) == len(config.discriminator_channels) == steps
    if resolution == 512:
        assert config.generator_channels[5:] == (16, 16, 16) and config.discriminator_channels[:3] == (16, 16, 16)
    assert base.at_resolution(64) == base
    for wrong in (48, 8, "32", 64.5):
        with pytest.raises(UserInputError, match=f"power of two from 16 up, got {wrong!r}"):
            base.at_resolution(wrong)  # type: ignore[arg-type]


def test_r1_weight_rule() -> None:
    assert TrainConfig(resolution=64, batch_size=16).effective_r1_gamma == pytest.approx(0.0002 * 4096 / 16)
    assert TrainConfig(r1_gamma=3.0).effective_r1_gamma == 3.0 and TrainConfig(r1_gamma=0.0).effective_r1_gamma == 0.0


def test_rate_is_constant_then_falls_to_a_tenth() -> None:
    config = TrainConfig(kimg=1.0, decay_fraction=0.25, learning_rate=0.01)
    for seen, factor in ((0, 1.0), (500, 1.0), (750, 1.0), (875, 0.55), (1000, 0.1), (5000, 0.1)):
        assert config.rate_at(seen) == pytest.approx(0.01 * factor)
    constant = replace(config, decay_fraction=0.0)
    assert [constant.rate_at(seen) for seen in (0, 999, 1000)] == pytest.approx([0.01] * 3)
    assert replace(config, decay_fraction=1.0).rate_at(500) == pytest.approx(0.0055)


def test_convolutions_are_bfloat16_on_a_gpu() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert TrainConfig().dtype(cpu) == torch.float32 and TrainConfig().dtype(cuda) == torch.bfloat16
    assert TrainConfig(precision="bfloat16").dtype(cpu) == torch.bfloat16
    assert TrainConfig(precision="float32").dtype(cuda) == torch.float32
