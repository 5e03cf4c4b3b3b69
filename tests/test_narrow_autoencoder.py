"""scripts/narrow_autoencoder.py: what a decoder reads is found, and kept."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from unix_cxr.models.autoencoder import build_autoencoder, to_range

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from narrow_autoencoder import main, narrowed, spectrum_of

from .training.conftest import write_films

READ = 2
CHANNELS = 4
SIDE = 32


def autoencoder() -> AutoencoderKL:
    """Its decoder reads the sum and the difference of two pairs of channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = build_autoencoder(
            channels=[8, 8, 8],
            layers_per_block=1,
            latent_channels=CHANNELS,
            image_channels=1,
            norm_groups=2,
            sample_size=SIDE,
        )
    mixed = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, -1], [1, 1, 1, -1], [2, 2, 0, 0]])
    with torch.no_grad():
        vae.post_quant_conv.weight.copy_(mixed[:, :, None, None])
        vae.post_quant_conv.bias.copy_(mixed @ torch.tensor([0.1, 0.2, -0.3, 0.1]))
    return vae.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    values = to_range(images, vae)
    back: torch.Tensor = vae.decode(vae.encode(values).latent_dist.mode()).sample
    return back


def test_two_directions_explain_everything(images: torch.Tensor) -> None:
    shares = spectrum_of(autoencoder(), images).shares
    assert float(shares[0]) < 0.999
    assert shares[READ - 1 :].tolist() == pytest.approx([1.0] * 3, abs=1e-4)


@pytest.mark.parametrize("channels", [READ, CHANNELS])
def test_images_come_back_as_they_did(images: torch.Tensor, channels: int) -> None:
    vae = autoencoder()
    small = narrowed(vae, spectrum_of(vae, images), channels).eval()
    assert small.config["latent_channels"] == channels
    before, after = reconstructed(vae, images), reconstructed(small, images)
    assert float((before - after).abs().max()) < 0.01 * float(before.std())


def test_one_direction_is_too_few(images: torch.Tensor) -> None:
    vae = autoencoder()
    small = narrowed(vae, spectrum_of(vae, images), 1).eval()
    before, after = reconstructed(vae, images), reconstructed(small, images)
    assert float((before - after).abs().max()) > 0.05 * float(before.std())


def test_what_is_kept_has_variance_one_and_the_posteriors_own(images: torch.Tensor) -> None:
    vae = autoencoder()
    spectrum = spectrum_of(vae, images)
    small = narrowed(vae, spectrum, READ).eval()
    with torch.no_grad():
        posterior = small.encode(to_range(images, small)).latent_dist
    latents = posterior.mode().transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.std(dim=1), torch.ones(READ), rtol=1e-3, atol=0)
    assert torch.allclose(torch.corrcoef(latents), torch.eye(READ), atol=1e-3)
    expected = spectrum.project[:READ].square() @ spectrum.variance
    torch.testing.assert_close(posterior.var.mean(dim=(0, 2, 3)), expected.float())


def test_the_command_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = write_films(tmp_path / "films")
    autoencoder().save_pretrained(tmp_path / "vae")
    main([str(tmp_path / "vae"), "--data", str(films), "--size", "32", "--split", "train"])
    assert capsys.readouterr().out.startswith("6 X-rays")
    main([str(tmp_path / "vae"), "--data", str(films), "--size", "32"])
    assert "explained by the first directions of 4" in capsys.readouterr().out
    out = tmp_path / "narrow"
    asked = ["--size", "32", "--channels", "2", "--out", str(out)]
    main([str(tmp_path / "vae"), "--data", str(films), *asked])
    assert AutoencoderKL.from_pretrained(out).config["latent_channels"] == READ


def test_more_channels_than_there_are_is_refused(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path / "vae")
    asked = ["--channels", "5", "--out", str(tmp_path / "narrow")]
    with pytest.raises(SystemExit):
        main([str(tmp_path / "vae"), "--data", str(tmp_path), *asked])
