# In place of default_runtime.py for fine-tuning: the model starts from a checkpoint, and losses and scores follow the
# kind of the masks.
_base_ = './default_runtime.py'
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=1, save_best=['wFmeasure', 'MAE']),
    pretrained_checkpoint=dict(type='mmbirefnet.PretrainedCheckpointHook'),
    soft_masks=dict(type='mmbirefnet.SoftMaskHook'),
)
