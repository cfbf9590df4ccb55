# The reference's current recipe: 8 images per GPU, bfloat16, TF32, torch.compile.
# For other configs: docs/en/advanced_guides/scale.md.
_base_ = './birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(type='mmbirefnet.BFloat16OptimWrapper', optimizer=dict(lr=1e-4 * 2**0.5))
auto_scale_lr = dict(base_batch_size=64, base_batch_per_gpu=8)
default_hooks = dict(matmul_precision=dict(precision='high'))
compile = True
