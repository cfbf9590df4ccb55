# Portrait matting: only sets of portraits.
_base_ = './matting_1024x1024.py'
train_sets = ['TR-P3M-10k', 'TE-P3M-500-NP', 'TR-humans']
train_dataloader = dict(dataset=dict(sets=train_sets))
val_dataloader = dict(dataset=dict(sets='TE-P3M-500-P'))
test_dataloader = dict(dataset=dict(sets=['TE-P3M-500-P']))
