"""Azure Machine Learning through SDK v1, `azureml-sdk`."""
