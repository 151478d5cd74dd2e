"""The networks, one file per paper: a plain form that trains and loads published weights, and `fuse` that makes the fast one."""
