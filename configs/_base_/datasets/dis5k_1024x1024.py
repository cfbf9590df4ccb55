# DIS5K (https://xuebinqin.github.io/dis): trained on DIS-TR, validated on DIS-VD, tested on this and DIS-TE1..4, at
# 1024x1024. Test sets that are not on disk are named and left out.
# MMBIREFNET_DATA names the folder that holds the sets, or a DIS5K folder with the sets in it.
_base_ = []  # with it, mmengine does not take the import for its other form of configs
import os  # noqa: E402

dataset_type = 'mmbirefnet.DIS5KDataset'
data_root = os.environ.get('MMBIREFNET_DATA', 'data')
image_size = (1024, 1024)  # width, height

train_pipeline = [
    dict(type='mmbirefnet.LoadImage'),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.Resize', scale=image_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmbirefnet.RandomRotate', prob=0.2, max_degrees=15),
    dict(type='mmbirefnet.ColorEnhance'),
    dict(type='mmbirefnet.SaltAndPepper', ratio=0.0015),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmbirefnet'),  # LoadImage, by the name that mmseg's inferencer looks for
    dict(type='mmbirefnet.Resize', scale=image_size),
    dict(type='mmbirefnet.LoadMask'),  # after the resize: scores are taken at the original size
    dict(type='mmbirefnet.PackDichotomousInputs'),
]
tta_pipeline = [
    dict(type='mmbirefnet.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='mmbirefnet.Resize', scale=(side, side)) for side in (896, 1024, 1152)],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='mmbirefnet.LoadMask')],
            [dict(type='mmbirefnet.PackDichotomousInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, sets='DIS-TR', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, sets='DIS-VD', pipeline=test_pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        sets=['DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'],
        skip_missing_sets=True,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)

val_evaluator = dict(
    type='mmbirefnet.DichotomousMetric', measures=['Smeasure', 'wFmeasure', 'MAE', 'maxFm'], num_workers='auto'
)
test_evaluator = dict(type='mmbirefnet.DichotomousMetric', num_workers='auto')
