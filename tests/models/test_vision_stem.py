"""A vision tower with convolutions in front: sizes, weights at the start, saving and loading."""

from pathlib import Path

import pytest
import torch

from tests.conftest import make_tiny_config
from unix_cxr import UniXModel
from unix_cxr.modules.vision_stem import Surroundings, VisionStem


def test_a_stem_sees_as_many_patches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, stem = make_tiny_config(), make_tiny_config(vision_stem=[4, 6, 8])
    assert plain.vision_config.patch_size == 16
    model = UniXModel(stem).eval()
    films = torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = model.image_tokens(films)
    assert tokens.shape == UniXModel(plain).image_tokens(films).shape
    model.save_pretrained(tmp_path)
    again = UniXModel.from_pretrained(tmp_path)
    assert again.config.vision_stem == [4, 6, 8]
    assert torch.equal(again.eval().image_tokens(films), tokens)


def test_features_of_a_new_stem_have_the_scale_of_its_input() -> None:
    model = UniXModel(make_tiny_config(vision_stem=[16, 16, 16]))
    stem: torch.nn.Module = model.vision.embeddings.patch_embedding
    assert isinstance(stem, VisionStem)
    features = stem(torch.randn(8, 3, 64, 64)).detach()
    assert 0.2 < float(features.std()) < 2
    assert stem.last.bias is not None
    assert not stem.last.bias.detach().any()


@torch.no_grad()
def test_a_position_sees_its_own_patch_most() -> None:
    film = torch.zeros(1, 3, 128, 128)
    spotted = film.clone()
    spotted[:, :, 16:32, 96:112] = 3
    apart = torch.zeros(8, 8)
    for _ in range(20):
        stem = VisionStem([8, 8, 8], 24)
        stem.reset_parameters()
        apart += (stem(spotted) - stem(film)).square().sum(dim=1)[0]
    assert divmod(int(apart.argmax()), 8) == (1, 6)


@torch.no_grad()
def test_surroundings_are_added_to_what_is_there() -> None:
    layer, maps = Surroundings(4), torch.randn(2, 4, 6, 6)
    assert not torch.allclose(layer(maps), maps)
    layer.conv.weight.zero_()
    torch.nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]  # it has one
    assert torch.equal(layer(maps), maps)


def test_a_stem_of_the_wrong_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vision_stem \(\[8\]\) halves the image 2 times.* is 16"):
        make_tiny_config(vision_stem=[8])
    with pytest.raises(ValueError, match="vision_stem"):
        make_tiny_config(vision_stem=[8, 0, 8])
