# FSDP shards parameters, gradients and optimizer state over all processes, while DDP keeps a copy in each.
# Add it to _base_, and start several processes. Checkpoints are complete, as without it.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmbirefnet.ResumableFSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        sharding_strategy='FULL_SHARD',
        # Modules whose parameters are gathered only while they run. Never the whole neck or head, since their losses
        # are computed outside of their forward pass.
        auto_wrap_policy=dict(
            type='mmbirefnet.engine.wrap_policy.wrap_by_name',
            names=['SwinBlock', 'BiRefBlock', 'ReconstructionBlock'],
        ),
    ),
    state_dict_cfg='full',
)
