"""DINOv3 (Siméoni et al., 2025): timm's network in the reference and here, at one level less there."""

from mmbirefnet.zoo.renames.family import BackboneFamily, BackboneSpec, Shapes, choose, count

# The blocks whose outputs are taken are the reference's choice.
ARCHITECTURES = {
    's': dict(model='small', dims=384, depth=12, gated=False, out_indices=(3, 5, 7, 11)),
    'splus': dict(model='small_plus', dims=384, depth=12, gated=True, out_indices=(3, 5, 7, 11)),
    'b': dict(model='base', dims=768, depth=12, gated=False, out_indices=(3, 5, 7, 11)),
    'l': dict(model='large', dims=1024, depth=24, gated=False, out_indices=(5, 11, 17, 23)),
    'hplus': dict(model='huge_plus', dims=1280, depth=32, gated=True, out_indices=(7, 15, 23, 31)),
    '7b': dict(model='7b', dims=4096, depth=40, gated=True, out_indices=(9, 19, 29, 39)),
}
TIMM = 'timm_model.'


def _rename(key: str) -> str:
    return TIMM + key


def _restore(key: str) -> str:
    return key.removeprefix(TIMM)


def _infer(shapes: Shapes) -> BackboneSpec | None:
    if f'{TIMM}model.reg_token' not in shapes:
        return None
    dims = shapes[f'{TIMM}model.reg_token'][-1]
    found = dict(
        dims=dims,
        depth=count(shapes, f'{TIMM}model.blocks.'),
        gated=f'{TIMM}model.blocks.0.mlp.fc1_g.weight' in shapes,
    )
    arch = choose('DINOv3', ARCHITECTURES, found)
    config = dict(
        type='mmbirefnet.TIMMBackbone',
        model_name=f'vit_{ARCHITECTURES[arch]["model"]}_patch16_dinov3',
        out_indices=ARCHITECTURES[arch]['out_indices'],
    )
    return BackboneSpec(f'dinov3-{arch}', config, (dims,) * 4)


DINOV3 = BackboneFamily('DINOv3', 'model.reg_token', _rename, _restore, _infer)
