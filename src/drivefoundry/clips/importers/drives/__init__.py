"""Recorded drives of one car, read as Drives: comma2k19, ROS 2, Udacity."""
