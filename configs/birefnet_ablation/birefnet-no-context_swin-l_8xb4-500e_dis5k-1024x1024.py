# Without context: the deepest map does not include the shallower stages.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(neck=dict(context=False))
