# Recipe: train all parameters at one learning rate, that of the config.
