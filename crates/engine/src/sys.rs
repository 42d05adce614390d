//! What needs `unsafe`: the descriptors of a child.
