# BiRefNet for the 150 classes of ADE20K: softmax and cross-entropy instead of one map and its losses.
_base_ = [
    '../_base_/models/birefnet_swin-t.py',
    'mmseg::_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k.py',
    'mmseg::_base_/default_runtime.py',
]
model = dict(
    # The inward reference divides the image into 32x32 parts, so test images are padded.
    data_preprocessor=dict(size=(512, 512), size_divisor=None, test_cfg=dict(size_divisor=32)),
    decode_head=dict(num_classes=150, loss_decode=dict(type='CrossEntropyLoss')),
)
train_dataloader = dict(batch_size=2)
