//! Capped XML events.
