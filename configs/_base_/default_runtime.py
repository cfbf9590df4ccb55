default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=5),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmbirefnet.SoftMapVisualizer', vis_backends=vis_backends, name='visualizer')
tta_model = dict(type='mmbirefnet.SoftMapTTAModel')
log_processor = dict(by_epoch=True)
log_level = 'INFO'
randomness = dict(seed=7)
load_from = None
resume = False
