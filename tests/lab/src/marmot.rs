//! Our own ends: their configuration, start and signs of life.

/// The user that every gateway of the lab knows.
pub const USER: &str = "alice";

/// That user's password.
pub const PASSWORD: &str = "correct horse battery staple";
