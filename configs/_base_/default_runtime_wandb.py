# In place of default_runtime.py: losses, metrics and soft maps go to Weights & Biases too (pip install wandb).
_base_ = './default_runtime.py'
visualizer = dict(
    vis_backends=[dict(type='LocalVisBackend'), dict(type='WandbVisBackend', init_kwargs=dict(project='mmbirefnet'))]
)
