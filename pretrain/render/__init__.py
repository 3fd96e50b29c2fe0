"""A batched renderer in torch: layered scenes with exact motion, drawn on the device that trains on them."""
