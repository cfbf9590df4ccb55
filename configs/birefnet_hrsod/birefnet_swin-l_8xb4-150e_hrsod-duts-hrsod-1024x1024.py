_base_ = './birefnet_swin-l_8xb4-150e_hrsod-1024x1024.py'
train_dataloader = dict(dataset=dict(sets=['TR-DUTS', 'TR-HRSOD']))
