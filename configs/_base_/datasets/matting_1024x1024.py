# Matting: masks stay soft, and the mean errors compare the maps with them (the other measures use masks above 128, as
# in the published tables). Composited sets (Human-2k, Distinctions-646 on BG-20k) are folders like the others.
# The sets are those of BiRefNet-matting, which lists AM-2k as a whole; its test part is kept for testing here.
_base_ = './dis5k_1024x1024.py'
dataset_type = 'mmbirefnet.MattingDataset'
train_sets = [
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TR-humans', 'TR-AM-2k', 'AIM-500', 'Human-2k_BG-20k', 'Distinctions-646_BG-20k'),
    *('HIM2K', 'PPM-100'),
]
train_dataloader = dict(dataset=dict(type=dataset_type, sets=train_sets))
val_dataloader = dict(dataset=dict(type=dataset_type, sets='TE-P3M-500-NP'))
test_dataloader = dict(dataset=dict(type=dataset_type, sets=['TE-P3M-500-NP', 'TE-AM-2k']))
val_evaluator = dict(soft_masks=True, measures=['MAE', 'MSE', 'Smeasure', 'wFmeasure'])
test_evaluator = dict(soft_masks=True)
