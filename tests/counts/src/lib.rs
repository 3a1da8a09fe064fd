//! The work of the hot path in small pieces, each as a function that does it once: for counting instructions (`tests/counts`) and for
//! timing (`tests/bench`).
//!
//! ```text
//!   segment    a super-packet of 64 KiB, cut into 45 segments           coalesce  the same 45 packets, put together again
//!   checksum   1,400 bytes                                              seal, record  1,400 bytes sealed; sealed and opened
//!   access_N   a packet looked up in N access rules                     bare_*    the same bytes through the AEAD alone
//! ```

mod access;
mod packets;
mod records;

pub use access::access;
pub use packets::{SEGMENTS, checksum, coalesce, segment};
pub use records::{LENGTH, Tunnel, bare_record, bare_seal, record, seal};

/// A piece of work that can be done again and again.
pub type Work = Box<dyn FnMut()>;

/// What a piece is called, and what makes one.
pub type Piece = (&'static str, fn() -> Work);

/// All pieces, by name.
pub const ALL: &[Piece] = &[
    ("segment", || Box::new(segment())),
    ("coalesce", || Box::new(coalesce())),
    ("checksum", || Box::new(checksum())),
    ("access_10", || Box::new(access(10))),
    ("access_1000", || Box::new(access(1000))),
    ("seal", || Box::new(seal(Tunnel::default()))),
    ("record", || Box::new(record(Tunnel::default()))),
    ("bare_seal", || Box::new(bare_seal(Tunnel::default()))),
    ("bare_record", || Box::new(bare_record(Tunnel::default()))),
];
