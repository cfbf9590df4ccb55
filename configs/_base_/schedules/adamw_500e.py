# The reference's recipe for DIS5K: constant learning rate, 1e-4 * sqrt(images per GPU / 4).
max_epochs = 500
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-2))
param_scheduler = []
train_cfg = dict(type='mmbirefnet.ResumableTrainLoop', max_epochs=max_epochs, val_begin=max_epochs - 50, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# The learning rate is for 8 GPUs with 4 images each. For other batch sizes, use tools/train.py --auto-scale-lr.
auto_scale_lr = dict(enable=False, base_batch_size=32, base_batch_per_gpu=4)
