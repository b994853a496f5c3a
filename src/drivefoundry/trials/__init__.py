"""One-off drives and judgements of an engine, a model or a baseline that exists; nothing is trained."""
