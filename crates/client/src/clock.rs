//! The clocks of this host; in tests they can be moved on, as if the process had been stopped.

#[cfg(not(test))]
pub(crate) use platform::clock::now;

#[cfg(test)]
pub(crate) use skewed::{freeze, now};

#[cfg(test)]
mod skewed {
    use std::cell::Cell;
    use std::time::Duration;

    use now::Now;

    thread_local! {
        static FROZEN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(crate) fn now() -> Now {
        platform::clock::now().plus(FROZEN.get())
    }

    /// The clocks went on while nothing on this thread ran.
    pub(crate) fn freeze(time: Duration) {
        FROZEN.set(FROZEN.get() + time);
    }
}
