"""How a model serves. Never imports torch or `training`; of `models` it knows `media.clip` and `bundle.bundle`."""
