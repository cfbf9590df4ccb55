# The image at full size alone: half the channels in every stage.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
in_channels = [192, 384, 768, 1536]
model = dict(multi_scale_input=False, neck=dict(in_channels=in_channels), decode_head=dict(in_channels=in_channels))
