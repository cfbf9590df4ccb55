# Without the inward reference: the decoder gets no crops of the image.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(decode_head=dict(inward_reference=False))
