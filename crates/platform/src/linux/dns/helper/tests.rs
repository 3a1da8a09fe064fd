//! A helper on a socket of the test's own, with good and bad company.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Stream;
use std::path::PathBuf;

use plan::Dns;
use tempfile::TempDir;

use super::super::order::How;
use super::*;

/// Far beyond what an order takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Orders of the flood.
const MANY: usize = 10_000;

struct Served {
    folder: TempDir,
    socket: PathBuf,
}

impl Served {
    /// It is served until the test program ends.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let socket = folder.path().join("dns.sock");
        let places = Places {
            resolv_conf: folder.path().join("resolv.conf"),
            kept: folder.path().join("kept"),
            helper: socket.clone(),
        };
        std::fs::write(&places.resolv_conf, "nameserver 192.0.2.53\n").expect("write");
        let listener = listen_unix(&socket, 0o600, None).expect("listen");
        let owner = owner(&path_of(&listener).expect("a path"));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).expect("listener");
                let kept = Kept::new(&places);
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = answer(stream, owner, &kept).await;
                }
            });
        });
        Self { folder, socket }
    }

    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = Stream::connect(&self.socket).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        // It may have heard enough.
        let _ = stream.write_all(bytes);
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        said
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("resolv.conf")).expect("read")
    }
}

fn order(interface: &str) -> Order {
    let dns = Dns {
        servers: vec![[10, 77, 0, 1].into()],
        search: vec!["corp.test".to_owned()],
        split: Vec::new(),
    };
    Order::apply(interface, How::File, &dns)
}

#[tokio::test]
async fn an_order_is_carried_out_and_taken_back() {
    let served = Served::start();
    let done = ask(&served.socket, &order("mm-work"), PATIENCE).await.expect("done");
    assert_eq!(done.way, Some(crate::dns::Way::File));
    assert!(served.text().contains("nameserver 10.77.0.1\nsearch corp.test\n"));
    let done = ask(&served.socket, &Order::revert("mm-work"), PATIENCE)
        .await
        .expect("done");
    assert!(done.was_there);
    assert_eq!(served.text(), "nameserver 192.0.2.53\n");
}

#[test]
fn bad_company_changes_nothing_and_holds_nobody_up() {
    let served = Served::start();
    let before = served.text();
    let good = serde_json::to_string(&order("mm-work")).expect("json");
    let injected = good.replace("corp.test", "corp.test\\nnameserver 192.0.2.66");
    for bad in [
        injected + "\n",
        format!("{}\n", "x".repeat(MAX_LINE as usize + 1)),
        "x".repeat(4 * MAX_LINE as usize),
        "{}\n".to_owned(),
        "\n".to_owned(),
        "\0\0\0\n".to_owned(),
    ] {
        let said = served.say(bad.as_bytes());
        assert!(said.contains("\"error\":\"") || said.is_empty(), "{said}");
        assert_eq!(served.text(), before);
    }
    // Somebody who says nothing has a second.
    let _silent = Stream::connect(&served.socket).expect("connect");
    assert!(served.say(format!("{good}\n").as_bytes()).contains("\"error\":null"));
    assert!(served.text().contains("nameserver 10.77.0.1"));
}

#[test]
fn many_orders_are_taken_one_by_one() {
    let served = Served::start();
    let good = serde_json::to_string(&order("mm-work")).expect("json") + "\n";
    served.say(good.as_bytes());
    let ours = served.text();
    for number in 0..MANY {
        let said = match number % 2 {
            0 => served.say(good.as_bytes()),
            _ => served.say(b"nonsense\n"),
        };
        assert_eq!(said.contains("\"error\":null"), number % 2 == 0, "{said}");
    }
    assert_eq!(served.text(), ours);
    assert_eq!(std::fs::read_dir(served.folder.path()).expect("list").count(), 3);
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("none.sock");
    let error = ask(&socket, &order("mm-work"), PATIENCE)
        .await
        .expect_err("nobody")
        .to_string();
    assert!(error.contains("marmot-dns.socket"), "{error}");
}

#[tokio::test]
async fn somebody_else_is_refused() {
    let (ours, theirs) = UnixStream::pair().expect("pair");
    let kept = Kept::new(&Places {
        resolv_conf: "/nonexistent".into(),
        kept: "/nonexistent".into(),
        helper: "/nonexistent".into(),
    });
    // SAFETY: geteuid takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    if own == 0 {
        // Root may always ask; the test of the services has another user.
        return;
    }
    let (served, asked) = tokio::join!(answer(ours, Some(own + 1), &kept), async {
        let mut theirs = theirs;
        line(&mut theirs, MAX_ANSWER).await
    });
    served.expect("answered");
    let said = String::from_utf8(asked.expect("a line")).expect("text");
    assert!(said.contains("not permitted"), "{said}");
}
