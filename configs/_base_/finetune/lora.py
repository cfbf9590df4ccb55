# Recipe: train only low-rank adapters (Hu et al., 2022) of linear layers and 1x1 convolutions, which are saved in a
# small file. Needs peft. Adapters start at zero and have a larger learning rate.
model = dict(
    type='mmbirefnet.LoRABiRefNet',
    rank=8,
    alpha=16.0,
    neck=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
    decode_head=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'lora_': dict(lr_mult=10.0)}))
