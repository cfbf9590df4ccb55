# Replaces default_runtime.py: losses, metrics and predictions also go to Weights & Biases (pip install wandb).
_base_ = './default_runtime.py'
visualizer = dict(
    vis_backends=[dict(type='LocalVisBackend'), dict(type='WandbVisBackend', init_kwargs=dict(project='mmbirefnet'))]
)
