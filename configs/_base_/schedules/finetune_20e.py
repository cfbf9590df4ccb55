# Fine-tuning: the learning rate of the reference's general models, for any batch size. (Its DIS5K models train with ten
# times this rate.)
max_epochs = 20
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-5, weight_decay=1e-2))
param_scheduler = []
train_cfg = dict(type='mmbirefnet.ResumableTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
