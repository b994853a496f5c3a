"""The way of a clip from the car to the fleet's store: collected, queued and sent until the service acknowledges it."""
