# Replaces default_runtime.py: losses, metrics and predictions also go to TensorBoard (pip install tensorboard).
_base_ = './default_runtime.py'
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
