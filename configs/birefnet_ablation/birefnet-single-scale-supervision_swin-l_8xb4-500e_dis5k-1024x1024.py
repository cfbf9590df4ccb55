# Only the final map has losses. The side outputs remain, since they define the gradient targets.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(decode_head=dict(multi_scale_supervision=False))
