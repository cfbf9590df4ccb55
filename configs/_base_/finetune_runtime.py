# Replaces default_runtime.py for fine-tuning: the model starts from a checkpoint, and losses and metrics depend on
# whether masks are soft.
_base_ = './default_runtime.py'
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=1, save_best=['wFmeasure', 'MAE']),
    pretrained_checkpoint=dict(type='mmbirefnet.PretrainedCheckpointHook'),
    soft_masks=dict(type='mmbirefnet.SoftMaskHook'),
)
