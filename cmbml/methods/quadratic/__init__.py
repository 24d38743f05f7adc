"""The quadratic estimator of the lensing potential."""
