//! Every limit of the API, with its reason.

use std::time::Duration;

/// Connections at once. A person has a few, a panel of a desktop one; each costs two buffers of [`MAX_HEAD`].
pub const MAX_CONNECTIONS: usize = 32;

/// Connections of [`MAX_CONNECTIONS`] kept for peers that may administer: a flood by others cannot keep root out.
pub(crate) const RESERVED: usize = 4;

/// Readers of events at once: they stay, so they must leave room for orders.
pub(crate) const MAX_READERS: usize = 16;

/// Connections at once that only get to hear that there are too many. More are closed without a word.
pub(crate) const MAX_TURNED_AWAY: usize = 32;

/// Events that wait for one reader. More are not lost silently: the reader is dropped, connects again and begins with
/// the status. A tunnel that comes up makes about ten.
pub const EVENT_QUEUE: usize = 64;

/// The largest request body in bytes; ours have at most one member.
pub(crate) const MAX_BODY: usize = 16 * 1024;

/// The largest request head in bytes; hyper's smallest buffer.
pub(crate) const MAX_HEAD: usize = 8 * 1024;

/// Jobs in one answer: 1,000 of them are below 1 MB. Those that failed come first.
pub const MAX_JOBS: usize = 1000;

/// Sessions in one answer; as many as are kept by default.
pub const MAX_HISTORY: usize = 1000;

/// Sessions of a gateway in one answer: 10,000 of them are about 5 MB, below [`MAX_ANSWER`].
pub const MAX_SESSIONS: usize = 10_000;

/// Time for a request's head to arrive, also on a connection that had a request before.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a request's body to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a peer to take at least one byte of what is to be written.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the daemon to answer. The longest honest wait is the budget of a stop, 0.25 s.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a peer that was turned away to read why.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Time for answers that are on their way when the daemon ends.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// The largest answer that a client takes, in bytes.
pub(crate) const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// The longest line of events that a client takes, in bytes. A status names at most [`MAX_JOBS`] jobs.
pub(crate) const MAX_LINE: usize = 2 * 1024 * 1024;
