"""Models of the configs, small enough for tests."""

from mmengine.config import ConfigDict


def shrink(model: ConfigDict, embed_dims: int = 8) -> ConfigDict:
    """Make a Swin-L BiRefNet of a config small, in place, by dividing all channels by one factor."""
    factor = 192 // embed_dims
    model.backbone.update(
        arch=dict(embed_dims=embed_dims, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4),
        drop_path_rate=0,  # blocks that are left out have no gradient
        init_cfg=None,
    )
    model.backbone_channels = [channels // factor for channels in model.backbone_channels]
    for part in (model.neck, model.decode_head):
        part.aspp_cfg = dict(part.get('aspp_cfg', {}), branch_channels=8)
    return model
