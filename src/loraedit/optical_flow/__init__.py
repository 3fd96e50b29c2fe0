"""Dense optical flow: one protocol, a registry of estimators, and pure functions on flow fields."""
