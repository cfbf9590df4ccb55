# Trained on the test sets too, so DIS-VD alone is left to test on.
_base_ = './birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
train_dataloader = dict(dataset=dict(sets=['DIS-TR', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4']))
test_dataloader = dict(dataset=dict(sets=['DIS-VD']))
