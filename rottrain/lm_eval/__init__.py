"""A checkpoint as the model `rot` of lm-evaluation-harness. Needs the extra `lm-eval`. Knows nothing of its tasks."""
