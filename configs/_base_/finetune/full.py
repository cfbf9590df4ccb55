# Recipe: train all parameters with the learning rate of the config.
