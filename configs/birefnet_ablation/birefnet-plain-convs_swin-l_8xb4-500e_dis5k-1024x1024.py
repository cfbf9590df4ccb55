# Plain convolutions instead of deformable ones, with the same kernel sizes.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(neck=dict(aspp_cfg=dict(conv_cfg=None)), decode_head=dict(aspp_cfg=dict(conv_cfg=None)))
