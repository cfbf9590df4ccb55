# General use with wide images, 2560 wide and 1440 high. Trained on the sets of BiRefNet_lite-2K, but only on images
# wider and higher than 0.8 of that.
_base_ = './dichotomous_2560x1440.py'
dataset_type = 'mmbirefnet.GeneralDataset'
larger_than = (2048, 1152)  # width, height
train_sets = [
    *('DIS-TR', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4', 'TR-UHRSD', 'TE-UHRSD', 'TR-HRS10K', 'TE-HRS10K'),
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TR-humans', 'TR-AM-2k', 'TE-AM-2k', 'AIM-500'),
    *('Human-2k_BG-20k', 'Distinctions-646_BG-20k', 'HIM2K', 'PPM-100'),
]
train_dataloader = dict(dataset=dict(type=dataset_type, sets=train_sets, larger_than=larger_than))
val_dataloader = dict(dataset=dict(type=dataset_type, sets='DIS-VD'))
test_dataloader = dict(dataset=dict(type=dataset_type, sets=['DIS-VD', 'TE-P3M-500-NP']))
