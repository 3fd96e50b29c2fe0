"""Propagation of keyframes along the source's motion: keyframes -> flow paths -> carried keyframes with trust."""
