//! What the target for rows of `sessions.redb` does with its bytes: they are a session or they are not, and one that is read
//! and written again says the same.
//!
//! The tests of `gateway::state` include this file and replay the corpus on every `cargo test`.

use std::time::Duration;

use now::{Awake, Boot, Now, Wall};
use session::gateway::SessionId;

use super::row::Row;

const BOOT_ID: &str = "5ca1ab1e";

/// A row of the table of sessions.
pub fn session_row(data: &[u8]) {
    let id = SessionId([1; 16]);
    let Some(row) = Row::parse(id, data) else { return };
    let s = Duration::from_secs;
    let now = Now {
        awake: Awake::from_origin(s(5_000)),
        boot: Boot::from_origin(s(10_000)),
        wall: Wall::from_origin(s(1_800_000_000)),
    };
    let memory = row.memory(now, BOOT_ID).expect("it has a name");
    assert!(row.job().is_some() && memory.kept.id == id);
    let written = serde_json::to_vec(&Row::new(&memory, now, BOOT_ID)).expect("JSON");
    let again = Row::parse(id, &written).expect("what was written is a row");
    let again = again.memory(now, BOOT_ID).expect("it has a name");
    let (mut have, mut had) = (again.kept, memory.kept);
    // Later than stamps can say: cut off.
    let is_near = |until: Boot| until.since(now.boot) < s(1 << 40);
    have.tickets_until = have.tickets_until.filter(|until| is_near(*until));
    had.tickets_until = had.tickets_until.filter(|until| is_near(*until));
    assert_eq!(have, had);
    assert_eq!(
        (again.started, again.peer, again.connections, again.traffic),
        (memory.started, memory.peer, memory.connections, memory.traffic)
    );
}
