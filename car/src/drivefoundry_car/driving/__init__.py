"""The engine at the wheel: the runtime that always has a plan, and all that checks its inputs, its plans and itself."""
