default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='mmbirefnet.RankZeroLoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmbirefnet.AtomicCheckpointHook',
        interval=5,
        max_keep_ckpts=10,  # at the end, those of the last 50 epochs
        save_best='wFmeasure',  # or any of these, or several
        greater_keys=[
            *('maxFm', 'meanFm', 'adpFm', 'wFmeasure', 'maxEm', 'meanEm', 'adpEm', 'Smeasure'),
            *('mBA', 'maxBIoU', 'meanBIoU'),
        ],
        less_keys=['MAE', 'MSE', 'HCE', 'SAD', 'Grad', 'Conn', 'SAD-T', 'MSE-T', 'Grad-T', 'Conn-T', 'loss'],
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    sync_buffers=dict(type='mmbirefnet.BufferSyncHook'),
    matmul_precision=dict(type='mmbirefnet.MatmulPrecisionHook', precision='highest'),  # 'high' is TF32
    stop_signal=dict(type='mmbirefnet.StopSignalHook'),
    work_dir_lock=dict(type='mmbirefnet.WorkDirLockHook'),
    worker_guard=dict(type='mmbirefnet.WorkerGuardHook'),
    finite=dict(type='mmbirefnet.FiniteHook'),
    visualization=dict(type='SegVisualizationHook'),
    soft_maps=dict(type='mmbirefnet.SoftMapHook', images=8),
    benchmark_table=dict(type='mmbirefnet.BenchmarkTableHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmbirefnet.SoftMapVisualizer', vis_backends=vis_backends, name='visualizer')
tta_model = dict(type='mmbirefnet.SoftMapTTAModel')
log_processor = dict(by_epoch=True)
log_level = 'INFO'
randomness = dict(seed=7)
load_from = None
resume = False
