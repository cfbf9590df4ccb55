# BiRefNet_lite-matting on your own images with soft masks: --cfg-options data_root=DIR load_from=CHECKPOINT.
# See docs/en/user_guides/finetune.md.
_base_ = '../birefnet/birefnet_swin-t_1xb4-20e_finetune-1024x1024.py'
val_evaluator = dict(measures=['MAE', 'MSE', 'Smeasure', 'wFmeasure'])
default_hooks = dict(
    checkpoint=dict(save_best='MAE'),
    soft_masks=dict(masks='soft'),  # no IoU loss; MAE and MSE of the gray levels
)
