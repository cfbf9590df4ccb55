# General use with wide images, 2560 wide and 1440 high. Trained on the sets of BiRefNet_lite-2K, and of these only on
# large images: at least 2560x1440 or, which includes it, wider and higher than 0.8 of that.
_base_ = './general_1024x1024.py'
image_size = (2560, 1440)  # width, height
larger_than = (2048, 1152)  # width, height
train_sets = [
    *('DIS-TR', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4', 'TR-UHRSD', 'TE-UHRSD', 'TR-HRS10K', 'TE-HRS10K'),
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TR-humans', 'TR-AM-2k', 'TE-AM-2k', 'AIM-500'),
    *('Human-2k_BG-20k', 'Distinctions-646_BG-20k', 'HIM2K', 'PPM-100'),
]

resize = dict(type='mmbirefnet.Resize', scale=image_size)
train_pipeline = [*_base_.train_pipeline[:2], resize, *_base_.train_pipeline[3:]]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
tta_pipeline = _base_.tta_pipeline
# 7/8, 1 and 9/8 of the size, in multiples of 32
tta_pipeline[1].transforms[0] = [
    dict(type='mmbirefnet.Resize', scale=tuple(round(side * eighths / 256) * 32 for side in image_size))
    for eighths in (7, 8, 9)
]
train_dataloader = dict(dataset=dict(sets=train_sets, larger_than=larger_than, pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
