"""Input pipeline: dataset, sampler, collate, loader, augmentation, feature cache."""
