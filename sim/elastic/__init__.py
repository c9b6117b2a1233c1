"""PipeTransformer's decisions: freezing, packing, replicas, caching; pure, for both twins."""
