//! The supervisor: starting it, talking to it, noticing that it is dead.
