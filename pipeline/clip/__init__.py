"""The frozen backbone: towers, exact fast paths, and the pretraining of the embedded one."""
