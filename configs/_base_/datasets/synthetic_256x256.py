# Generated objects of tools/dataset_converters/make_synthetic_dis.py, in the layout of DIS5K, at 256x256.
_base_ = './dichotomous_1024x1024.py'
import os  # noqa: E402

dataset_type = 'mmbirefnet.DIS5KDataset'
data_root = os.environ.get('MMBIREFNET_DATA', 'data/synthetic')
image_size = (256, 256)  # width, height
resize = dict(type='mmbirefnet.Resize', scale=image_size)
augmentations = [
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmbirefnet.RandomRotate', prob=0.2, max_degrees=15),
]
train_pipeline = [_base_.load_image, _base_.load_mask, resize, *augmentations, _base_.pack]
test_pipeline = [_base_.load_test_image, resize, _base_.load_mask, _base_.pack]
tta_resizes = [dict(type='mmbirefnet.Resize', scale=(side, side)) for side in (224, 256, 288)]
tta_transforms = [tta_resizes, _base_.tta_flips, [_base_.load_mask], [_base_.pack]]
tta_pipeline = [_base_.load_image, dict(type='TestTimeAug', transforms=tta_transforms)]

train_dataloader = dict(
    num_workers=1,
    dataset=dict(type=dataset_type, data_root=data_root, sets='DIS-TR', pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(type=dataset_type, data_root=data_root, sets='DIS-VD', pipeline=test_pipeline),
)
test_dataloader = dict(
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, sets='DIS-VD', skip_missing_sets=False, pipeline=test_pipeline
    ),
)
val_evaluator = test_evaluator = dict(num_workers=0)
