"""The ROS 2 nodes, and the plain data that says which nodes make up a run."""
