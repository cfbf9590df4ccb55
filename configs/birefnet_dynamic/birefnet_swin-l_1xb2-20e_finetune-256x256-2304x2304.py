# BiRefNet_dynamic or BiRefNet_dynamic-matting on your own images: --cfg-options data_root=DIR load_from=CHECKPOINT.
# See docs/finetune.md.
_base_ = '../birefnet/birefnet_swin-l_1xb2-20e_finetune-1024x1024.py'
train_pipeline = [
    *_base_.train_pipeline[:2],
    *_base_.train_pipeline[3:-1],  # without Resize
    dict(type='mmbirefnet.ResizeToBatch'),
    _base_.train_pipeline[-1],
]
model = dict(backbone=dict(with_cp=True), decode_head=dict(with_cp=True))
train_dataloader = dict(
    batch_sampler=dict(type='mmbirefnet.DynamicSizeBatchSampler', min_size=(256, 256), max_size=(2304, 2304)),
    dataset=dict(pipeline=train_pipeline),
)
env_cfg = dict(cudnn_benchmark=False)  # it would try its kernels again at every size
