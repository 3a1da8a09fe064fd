//! The gateway side (in progress).
