"""From a dataset to batches: dataset, sampler, collate, loader, augmentation, feature cache."""
