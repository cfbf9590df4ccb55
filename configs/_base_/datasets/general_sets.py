# General use: trained on nearly all public sets, validated on DIS-VD, tested on DIS-VD and on portraits.
# Like the current config of the reference, it tests on TE-P3M-500-NP and does not train on it. The released general
# models were also trained on this set.
# Sets are in MMBIREFNET_DATA, or in its folder General or that of their family (DIS5K, HRSOD, Matting).
dataset_type = 'mmbirefnet.GeneralDataset'
train_sets = [
    *('DIS-TR', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'),
    *('TR-DUTS', 'TE-DUTS', 'TR-HRSOD', 'TE-HRSOD', 'TR-UHRSD', 'TE-UHRSD', 'TR-HRS10K', 'TE-HRS10K'),
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TR-humans'),
]
test_sets = ['DIS-VD', 'TE-P3M-500-NP']
