# Recipe: freeze the backbone, and train neck and decoder. Least forgetting, memory and time per step; for images of a
# kind that the model has seen.
model = dict(backbone=dict(frozen_stages=4))
