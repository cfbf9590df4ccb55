# BiRefNet_lite with guidance by a coarse mask: --cfg-options data_root=DIR load_from=BiRefNet_lite.
# The same as the recipe _base_/finetune/guided.py; see docs/en/user_guides/finetune.md.
_base_ = './birefnet_swin-t_1xb4-20e_finetune-1024x1024.py'
coarse_mask = dict(type='mmbirefnet.CoarseMask')
test_coarse_mask = dict(type='mmbirefnet.CoarseMask', drop=0.0, select=0.0, seed=0)
load = [_base_.load_image, _base_.load_mask]
train_pipeline = [*load, _base_.resize, *_base_.augmentations, coarse_mask, _base_.pack]
test_pipeline = [_base_.load_test_image, _base_.resize, _base_.load_mask, test_coarse_mask, _base_.pack]

model = dict(
    type='mmbirefnet.GuidedBiRefNet',
    data_preprocessor=dict(type='mmbirefnet.GuidedDataPreProcessor'),
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(mask_weight=dict(lr_mult=100.0))))
