# General use at high resolution, 2048x2048. Trained on the sets of BiRefNet_HR, which have high resolution (no DUTS).
# They include TE-P3M-500-NP and TE-AM-2k, so it is tested only on DIS-VD.
_base_ = './dichotomous_2048x2048.py'
dataset_type = 'mmbirefnet.GeneralDataset'
train_sets = [
    *('DIS-TR', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'),
    *('TR-HRSOD', 'TE-HRSOD', 'TR-UHRSD', 'TE-UHRSD', 'TR-HRS10K', 'TE-HRS10K'),
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TE-P3M-500-NP', 'TR-humans', 'TR-AM-2k', 'TE-AM-2k', 'AIM-500', 'TE-Human-2k'),
    *('Human-2k_BG-20k', 'Distinctions-646_BG-20k', 'HIM2K', 'PPM-100'),
]
train_dataloader = dict(dataset=dict(type=dataset_type, sets=train_sets))
val_dataloader = dict(dataset=dict(type=dataset_type, sets='DIS-VD'))
test_dataloader = dict(dataset=dict(type=dataset_type, sets=['DIS-VD']))
