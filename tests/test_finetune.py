"""Fine-tuning: networks from a model file, a gentler rate, frozen blocks of the discriminator."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CONFIG, DISCRIMINATOR_CHANNELS
from torch import Tensor
from training_helpers import TINY, trainer, weights

from ganaug import checkpoints
from ganaug.errors import CheckpointError, UserInputError
from ganaug.training.finetune import FROZEN_BLOCKS, RATE_SHARE, start_from, tuned
from ganaug.training.gan import GANTrainer

CONDITIONAL = replace(TINY, condition=("gender", "glasses"))


def write(t: GANTrainer, path: Path) -> Path:
    checkpoints.write(path, t.parts(), t.description(), half=False)
    return path


def started(config: object, path: Path) -> tuple[GANTrainer, dict[str, Tensor], dict[str, Tensor]]:
    """A new trainer, its weights as they were, and those that it has from the file."""
    t = trainer(config)  # type: ignore[arg-type]
    before = weights(t)
    start_from(t.state, path)
    return t, before, weights(t)


@pytest.fixture
def trained() -> GANTrainer:
    t = trainer(replace(TINY, seed=7))
    for _ in range(2):
        t.step()
    return t


def test_settings_come_from_the_file(model_file: Path) -> None:
    config = tuned(replace(TINY, kimg=7.0, r1_gamma=2.0, seed=3), model_file)
    assert (config.resolution, config.z_dim, config.w_dim, config.mapping_layers) == (16, 24, 24, 2)
    assert config.generator_channels == CONFIG.channels and config.discriminator_channels == DISCRIMINATOR_CHANNELS
    assert config.learning_rate == TINY.learning_rate * RATE_SHARE < TINY.learning_rate
    assert config.freeze_d == FROZEN_BLOCKS > 0
    assert (config.kimg, config.r1_gamma, config.batch_size) == (7.0, 2.0, 4)
    t, before, after = started(config, model_file)
    assert not torch.equal(before["generator.map_network.fc0.weight"], after["generator.map_network.fc0.weight"])
    t.step()


def test_every_part_is_filled(trained: GANTrainer, tmp_path: Path) -> None:
    """Fresh and averaged networks get the file's averages; then both runs make the same images."""
    path = write(trained, tmp_path / "model.safetensors")
    t, before, after = started(TINY, path)
    source = weights(trained)
    for name, value in after.items():
        network, _, rest = name.partition(".")
        kept = network if network.endswith("_ema") or network == "discriminator" else f"{network}_ema"
        assert torch.equal(value, source[f"{kept}.{rest}"]), name
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert {name.partition(".")[0] for name in changed} == set(t.state.modules())
    assert torch.equal(t.samples(2, 0), trained.samples(2, 0))
    assert t.images_seen == 0 and not t.state.g_optimizer.state


def test_the_optimisers_train_what_was_filled(trained: GANTrainer, tmp_path: Path) -> None:
    t, _, after = started(TINY, write(trained, tmp_path / "model.safetensors"))
    t.step()
    moved = {name.partition(".")[0] for name, value in weights(t).items() if not torch.equal(value, after[name])}
    assert moved == set(t.state.modules())


def test_parts_that_the_file_lacks_stay_fresh(trained: GANTrainer, tmp_path: Path) -> None:
    parts = {name: part for name, part in trained.parts().items() if name in ("generator", "features")}
    checkpoints.write(tmp_path / "model.safetensors", parts, trained.description(), half=False)
    _, before, after = started(TINY, tmp_path / "model.safetensors")
    same = {name for name in after if torch.equal(before[name], after[name]) and bool(after[name].abs().max() > 0)}
    assert {n for n in same if n.startswith("encoder")} == {
        n for n in after if n.startswith("encoder") and bool(after[n].abs().max() > 0)
    }
    assert "discriminator.conv.weight" in same and "discriminator.trunk.fromrgb.weight" not in same
    without = trainer(replace(TINY, with_encoder=False))
    start_from(without.state, write(trained, tmp_path / "whole.safetensors"))


def test_conditional_run_from_an_unconditional_file(trained: GANTrainer, tmp_path: Path) -> None:
    """Only what reads the condition stays fresh."""
    t, before, after = started(CONDITIONAL, write(trained, tmp_path / "model.safetensors"))
    fresh = {name for name, value in after.items() if torch.equal(before[name], value) and bool(value.abs().max() > 0)}
    beginnings = ("map_network.embed.", "map_network.fc0.", "condition.", "out.")
    assert fresh and all(name.split(".", 1)[1].startswith(beginnings) for name in fresh), fresh
    source = weights(trained)
    assert torch.equal(after["generator.map_network.fc1.weight"], source["generator_ema.map_network.fc1.weight"])
    assert torch.equal(after["discriminator.fc.weight"], source["discriminator.fc.weight"])
    t.step()


def test_conditions_of_another_file(tmp_path: Path) -> None:
    """With the same classes everything is filled, with others all but what reads them."""
    source = trainer(replace(CONDITIONAL, seed=3))
    path = write(source, tmp_path / "model.safetensors")
    _, _, after = started(CONDITIONAL, path)
    assert torch.equal(
        after["generator.map_network.embed.weight"], weights(source)["generator_ema.map_network.embed.weight"]
    )
    assert tuned(CONDITIONAL, path).condition == ("gender", "glasses")
    other = trainer()
    start_from(other.state, path)  # an unconditional run
    other.step()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"generator_channels": (8, 8, 4)},
            r"its generator has another shape \(.*b16.conv0.bias: \(8,\) there, \(4,\) here; ...\)",
        ),
        ({"w_dim": 6}, r"its generator has another shape .*\(8,\) there, \(6,\) here"),
        ({"mapping_layers": 3}, r"its generator has another shape \(map_network.fc2.bias: missing there, \(8,\) here"),
        ({"mapping_layers": 1}, r"its generator has another shape \(map_network.fc1.bias: \(8,\) there, missing here"),
        ({"discriminator_channels": (8, 4, 8)}, r"its encoder has another shape"),
        ({"discriminator_channels": (8, 4, 8), "with_encoder": False}, r"its features has another shape"),
    ],
)
def test_networks_of_another_shape(trained: GANTrainer, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = write(trained, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        start_from(trainer(replace(TINY, **changes)).state, path)


def test_other_resolution(trained: GANTrainer, tmp_path: Path) -> None:
    path = write(trained, tmp_path / "model.safetensors")
    larger = GANTrainer(TINY.at_resolution(32), trained.images, trained.processes)
    with pytest.raises(CheckpointError, match=r"synthesis_network.b32.* missing there, .* here"):
        start_from(larger.state, path)


def test_files_that_cannot_be_tuned(tmp_path: Path, trained: GANTrainer) -> None:
    path, parts, described = tmp_path / "model.safetensors", trained.parts(), trained.description()
    checkpoints.write(path, parts, {**described, "family": "vae"}, half=False)
    with pytest.raises(
        UserInputError, match="holds family 'vae'; only 'stylegan2' can be fine-tuned: leave --init out"
    ):
        tuned(TINY, path)
    for lost in ("config", "discriminator_channels"):
        checkpoints.write(path, parts, {k: v for k, v in described.items() if k != lost}, half=False)
        with pytest.raises(CheckpointError, match=f"its configuration is damaged or incomplete: KeyError.'{lost}'"):
            tuned(TINY, path)
    path.write_bytes(b"damaged")
    for use in (lambda: tuned(TINY, path), lambda: start_from(trained.state, path)):
        with pytest.raises(CheckpointError, match="not a readable"):
            use()


# Frozen blocks


@pytest.mark.parametrize("count", [0, 1, 2])
def test_frozen_blocks_do_not_move(count: int) -> None:
    t = trainer(replace(TINY, freeze_d=count))
    before = weights(t)
    frozen = ["discriminator.trunk.fromrgb."] * (count > 0) + [f"discriminator.trunk.blocks.{i}." for i in range(count)]
    for _ in range(2):
        t.step()
        for name, parameter in t.state.discriminator.named_parameters():
            assert parameter.requires_grad is not f"discriminator.{name}".startswith(tuple(frozen) or "none"), name
            assert parameter.requires_grad or parameter.grad is None
    for name, value in weights(t).items():
        if name.startswith("discriminator."):
            assert torch.equal(value, before[name]) is name.startswith(tuple(frozen) or "none"), name
    assert all(p.requires_grad for p in t.state.generator.parameters())


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(UserInputError, match="freeze_d must lie in 0 to 2, the discriminator's blocks, got 3"):
        trainer(replace(TINY, freeze_d=3))
