# Without context: the deepest stage goes to the decoder without the shallower ones.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(neck=dict(context=False))
