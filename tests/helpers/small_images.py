"""Lines of a config that load images at 64x64 in the process itself, two in a batch."""

SMALL_IMAGES = """
load, resize = dict(type='mmbirefnet.LoadImage'), dict(type='mmbirefnet.Resize', scale=(64, 64))
mask, pack = dict(type='mmbirefnet.LoadMask'), dict(type='mmbirefnet.PackDichotomousInputs')
train_pipeline, test_pipeline = [load, mask, resize, pack], [load, resize, mask, pack]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
"""
