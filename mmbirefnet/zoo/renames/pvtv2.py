"""PVTv2 (Wang et al., 2022): the reference has the names of the published checkpoints, this project timm's network."""

from mmbirefnet.zoo.renames.family import BackboneFamily, BackboneSpec, Shapes, choose, count, rename_by

ARCHITECTURES = {
    'b0': dict(channels=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    'b1': dict(channels=(64, 128, 320, 512), depths=(2, 2, 2, 2)),
    'b2': dict(channels=(64, 128, 320, 512), depths=(3, 4, 6, 3)),
    'b5': dict(channels=(64, 128, 320, 512), depths=(3, 6, 40, 3)),
}

# The reference counts stages from 1, timm from 0.
RENAMES = (
    (r'^patch_embed1\.', 'timm_model.patch_embed.'),
    *((rf'^patch_embed{k}\.', f'timm_model.stages_{k - 1}.downsample.') for k in (2, 3, 4)),
    *((rf'^block{k}\.', f'timm_model.stages_{k - 1}.blocks.') for k in (1, 2, 3, 4)),
    *((rf'^norm{k}\.', f'timm_model.stages_{k - 1}.norm.') for k in (1, 2, 3, 4)),
    (r'\.dwconv\.dwconv\.', '.dwconv.'),
)
RESTORES = (
    (r'^timm_model\.patch_embed\.', 'patch_embed1.'),
    *((rf'^timm_model\.stages_{k - 1}\.downsample\.', f'patch_embed{k}.') for k in (2, 3, 4)),
    *((rf'^timm_model\.stages_{k - 1}\.blocks\.', f'block{k}.') for k in (1, 2, 3, 4)),
    *((rf'^timm_model\.stages_{k - 1}\.norm\.', f'norm{k}.') for k in (1, 2, 3, 4)),
    (r'\.dwconv\.', '.dwconv.dwconv.'),
)


def _infer(shapes: Shapes) -> BackboneSpec | None:
    if 'timm_model.stages_0.blocks.0.mlp.dwconv.weight' not in shapes:
        return None
    stages = [f'timm_model.stages_{i}.' for i in range(4)]
    found = dict(
        channels=tuple(shapes.get(f'{stage}norm.weight', (0,))[0] for stage in stages),
        depths=tuple(count(shapes, f'{stage}blocks.') for stage in stages),
    )
    arch = choose('PVTv2', ARCHITECTURES, found)
    config = dict(type='mmbirefnet.TIMMBackbone', model_name=f'pvt_v2_{arch}')
    return BackboneSpec(f'pvtv2-{arch}', config, found['channels'])


PVTV2 = BackboneFamily('PVTv2', 'patch_embed1.proj.weight', rename_by(RENAMES), rename_by(RESTORES), _infer)
