"""The numbers that a model takes and gives: the ego's motion and the route as inputs, plans as action codes."""
