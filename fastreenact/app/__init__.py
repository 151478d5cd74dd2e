"""What people start: the command line, files animated, the demo, the doctor, the speed of this machine."""
