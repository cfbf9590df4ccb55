# The sets of BiRefNet-matting, but only the training part of AM-2k; its test part is used for testing. Composited sets
# (Human-2k, Distinctions-646 on BG-20k) are folders like the others.
dataset_type = 'mmbirefnet.MattingDataset'
train_sets = [
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TR-humans', 'TR-AM-2k', 'AIM-500', 'Human-2k_BG-20k', 'Distinctions-646_BG-20k'),
    *('HIM2K', 'PPM-100'),
]
test_sets = ['TE-P3M-500-NP', 'TE-AM-2k']
