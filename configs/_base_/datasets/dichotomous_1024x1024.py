# Images and masks at 1024x1024: pipelines, loaders and metric of all data sets. A config adds the type of the data set
# and its sets. Missing test sets are skipped with a warning.
# MMBIREFNET_DATA is the folder of the sets, or of a folder DIS5K with the sets.
_base_ = []  # without it, mmengine treats a config with an import as one of its other format
import os  # noqa: E402

data_root = os.environ.get('MMBIREFNET_DATA', 'data')
image_size = (1024, 1024)  # width, height

# Named steps, so that configs can combine them differently.
load_image = dict(type='mmbirefnet.LoadImage')
# The same transform by the name that mmseg's inferencer searches for.
load_test_image = dict(type='LoadImageFromFile', _scope_='mmbirefnet')
load_mask = dict(type='mmbirefnet.LoadMask')
resize = dict(type='mmbirefnet.Resize', scale=image_size)
augmentations = [
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmbirefnet.RandomRotate', prob=0.2, max_degrees=15),
    dict(type='mmbirefnet.ColorEnhance'),
    dict(type='mmbirefnet.SaltAndPepper', ratio=0.0015),
]
pack = dict(type='mmbirefnet.PackDichotomousInputs')
train_pipeline = [load_image, load_mask, resize, *augmentations, pack]
test_pipeline = [load_test_image, resize, load_mask, pack]  # scores are computed at the original size of the mask
tta_resizes = [dict(type='mmbirefnet.Resize', scale=(side, side)) for side in (896, 1024, 1152)]
tta_flips = [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)]
tta_pipeline = [load_image, dict(type='TestTimeAug', transforms=[tta_resizes, tta_flips, [load_mask], [pack]])]

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='mmbirefnet.DichotomousDataset', data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmbirefnet.DichotomousDataset', data_root=data_root, pipeline=test_pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmbirefnet.DichotomousDataset',
        data_root=data_root,
        skip_missing_sets=True,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)

val_evaluator = dict(
    type='mmbirefnet.DichotomousMetric', measures=['Smeasure', 'wFmeasure', 'MAE', 'maxFm'], num_workers='auto'
)
test_evaluator = dict(type='mmbirefnet.DichotomousMetric', num_workers='auto')
