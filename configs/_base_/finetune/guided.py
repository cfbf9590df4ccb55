# Recipe: a coarse mask beside the image, as a fourth input channel that starts at zero. Its weights take a larger
# learning rate. The steps of `after_resize` go into the training pipeline, `before_test_pack` into that of validation.
model = dict(
    type='mmbirefnet.GuidedBiRefNet',
    data_preprocessor=dict(type='mmbirefnet.GuidedDataPreProcessor'),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'mask_weight': dict(lr_mult=100.0)}))
after_resize = [dict(type='mmbirefnet.CoarseMask')]
before_test_pack = [dict(type='mmbirefnet.CoarseMask', drop=0.0, select=0.0, seed=0)]
