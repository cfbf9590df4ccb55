# Parameters, gradients and the optimizer's state in shards over all processes (FSDP), in place of copies in each (DDP).
# Add it to _base_, and start several processes. Checkpoints are whole, as without it.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        sharding_strategy='FULL_SHARD',
        # Modules whose parameters are gathered only while they run. Never the neck or the head as a whole: their
        # losses are computed beside their forward pass.
        auto_wrap_policy=dict(
            type='mmbirefnet.engine.wrap_policy.wrap_by_name',
            names=['SwinBlock', 'BiRefBlock', 'ReconstructionBlock'],
        ),
    ),
    state_dict_cfg='full',
)
