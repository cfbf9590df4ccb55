# Recipe: a coarse mask as a fourth input channel, whose weights start at zero and have a larger learning rate.
# `after_resize` is inserted into the training pipeline, and `before_test_pack` into that of validation.
model = dict(
    type='mmbirefnet.GuidedBiRefNet',
    data_preprocessor=dict(type='mmbirefnet.GuidedDataPreProcessor'),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'mask_weight': dict(lr_mult=100.0)}))
after_resize = [dict(type='mmbirefnet.CoarseMask')]
before_test_pack = [dict(type='mmbirefnet.CoarseMask', drop=0.0, select=0.0, seed=0)]
