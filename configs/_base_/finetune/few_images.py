# Recipe: strong augmentation for 10 to 50 images. `before_resize` and `after_resize` are inserted into the training
# pipeline by `mmbirefnet finetune`; in your own config, insert them yourself.
before_resize = [
    dict(type='mmbirefnet.CopyPaste', prob=0.3),
    dict(type='mmbirefnet.RandomZoomCrop', prob=0.7, min_side=0.5),
]
after_resize = [
    dict(type='PhotoMetricDistortion'),
    dict(type='mmbirefnet.BlurAndCompress', blur_prob=0.2, jpeg_prob=0.2),
]
