"""Search spaces over the trainer's config keys, as YAML files and in checked form (`sweeps.space`)."""
