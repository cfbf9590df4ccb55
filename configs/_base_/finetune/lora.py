# Recipe: train low-rank adapters (Hu et al., 2022) of linear layers and 1x1 convolutions, and nothing else. They are a
# small file; needs peft. Adapters start at zero and take a larger learning rate.
model = dict(
    type='mmbirefnet.LoRABiRefNet',
    rank=8,
    alpha=16.0,
    neck=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
    decode_head=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'lora_': dict(lr_mult=10.0)}))
