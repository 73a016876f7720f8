import pytest
from video_llava_export.names import canonical_name


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("video_tower.vision_model.embeddings.class_embedding", "video_tower.embeddings.class_embedding"),
        ("model.video_tower.embeddings.class_embedding", "video_tower.embeddings.class_embedding"),
        ("model.image_tower.vision_model.pre_layrnorm.bias", "image_tower.pre_layrnorm.bias"),
        ("image_tower.pre_layrnorm.bias", "image_tower.pre_layrnorm.bias"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
        ("multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
    ],
)
def test_every_layout_gives_one_name(name, canonical):
    assert canonical_name(name) == canonical
