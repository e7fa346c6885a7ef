"""Who merges: models, and the CI of a hub. `none` needs nobody (`merge.markdown`)."""
