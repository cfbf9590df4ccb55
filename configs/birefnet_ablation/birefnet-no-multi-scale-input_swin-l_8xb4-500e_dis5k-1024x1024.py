# Only the image at full size: half the channels in every stage.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(multi_scale_input=False)
