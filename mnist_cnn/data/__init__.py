"""Images and labels: IDX files, the named data sets, downloads and the packaged MNIST."""
