# Without the gradient supervision: only the masks train the attention of the outward reference.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(decode_head=dict(gradient_supervision=False))
