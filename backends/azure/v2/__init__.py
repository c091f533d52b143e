"""Azure Machine Learning through SDK v2, `azure-ai-ml`."""
