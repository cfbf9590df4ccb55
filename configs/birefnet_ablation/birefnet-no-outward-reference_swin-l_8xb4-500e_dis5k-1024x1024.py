# Without the outward reference: no attention, and no gradient supervision to train it.
_base_ = '../birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
model = dict(decode_head=dict(outward_reference=False))
