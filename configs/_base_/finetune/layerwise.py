# Recipe: halve the learning rate from stage to stage, from the decoder to the patch embedding, since early layers are
# general and late layers are specific to the task (Howard and Ruder, 2018).
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'backbone.patch_embed': dict(lr_mult=1 / 32),
            'backbone.layers.0.': dict(lr_mult=1 / 16),
            'backbone.layers.1.': dict(lr_mult=1 / 8),
            'backbone.layers.2.': dict(lr_mult=1 / 4),
            'backbone.layers.3.': dict(lr_mult=1 / 2),
            'backbone.norm': dict(lr_mult=1 / 2),
        }
    )
)
