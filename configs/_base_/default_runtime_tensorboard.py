# In place of default_runtime.py: losses, metrics and soft maps go to TensorBoard too (pip install tensorboard).
_base_ = './default_runtime.py'
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
