# Drawn objects of tools/dataset_converters/make_synthetic_dis.py, in the layout of DIS5K, at 256x256.
_base_ = []  # with it, mmengine does not take the import for its other form of configs
import os  # noqa: E402

dataset_type = 'mmbirefnet.DIS5KDataset'
data_root = os.environ.get('MMBIREFNET_DATA', 'data/synthetic')
image_size = (256, 256)  # width, height

train_pipeline = [
    dict(type='mmbirefnet.LoadImage'),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.Resize', scale=image_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmbirefnet.RandomRotate', prob=0.2, max_degrees=15),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmbirefnet'),  # LoadImage, by the name that mmseg's inferencer looks for
    dict(type='mmbirefnet.Resize', scale=image_size),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]
tta_pipeline = [
    dict(type='mmbirefnet.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='mmbirefnet.Resize', scale=(side, side)) for side in (224, 256, 288)],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='mmbirefnet.LoadMask')],
            [dict(type='mmbirefnet.PackDichotomousInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, sets='DIS-TR', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, sets='DIS-VD', pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='mmbirefnet.DichotomousMetric', measures=['Smeasure', 'wFmeasure', 'MAE', 'maxFm'])
test_evaluator = dict(type='mmbirefnet.DichotomousMetric')
