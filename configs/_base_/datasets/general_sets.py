# General use: trained on nearly all sets there are, validated on DIS-VD, tested on this and on portraits.
# The reference's present config tests on TE-P3M-500-NP and leaves it out of training, as this one does; its released
# general models were trained on this set too.
# Sets lie below MMBIREFNET_DATA, or there in a folder General or in that of their family (DIS5K, HRSOD, Matting).
dataset_type = 'mmbirefnet.GeneralDataset'
train_sets = [
    *('DIS-TR', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'),
    *('TR-DUTS', 'TE-DUTS', 'TR-HRSOD', 'TE-HRSOD', 'TR-UHRSD', 'TE-UHRSD', 'TR-HRS10K', 'TE-HRS10K'),
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TR-humans'),
]
test_sets = ['DIS-VD', 'TE-P3M-500-NP']
