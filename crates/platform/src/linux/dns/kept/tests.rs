//! One tunnel, two tunnels, somebody else, and a kill between any two steps.

use std::os::unix::fs::symlink;

use plan::Dns;
use tempfile::TempDir;

use super::*;

const BEFORE: &str = "# the administrator's own\nnameserver 192.0.2.53\noptions timeout:1\n";

struct Host {
    folder: TempDir,
    kept: Kept,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let kept = Kept {
            resolv_conf: folder.path().join("resolv.conf"),
            folder: folder.path().join("kept"),
        };
        let host = Self { folder, kept };
        host.write(BEFORE);
        host
    }

    fn write(&self, text: &str) {
        fs::write(&self.kept.resolv_conf, text).expect("write");
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.kept.resolv_conf).expect("read")
    }

    fn apply(&self, interface: &str, server: &str) -> Result<Done> {
        self.kept.carry_out(&Order::apply(interface, How::Auto, &dns(server)))
    }

    fn revert(&self, interface: &str) -> Done {
        self.kept.carry_out(&Order::revert(interface)).expect("reverted")
    }

    /// Nothing of ours is left, beside the empty folder and its lock.
    fn is_clean(&self) -> bool {
        let beside = fs::read_dir(self.folder.path()).expect("list").count();
        let kept = fs::read_dir(&self.kept.folder).map_or(0, |list| list.count());
        beside <= 2 && kept <= 1
    }
}

fn dns(server: &str) -> Dns {
    Dns {
        servers: vec![server.parse().expect("an address")],
        search: vec!["corp.test".to_owned()],
        split: Vec::new(),
    }
}

#[test]
fn one_tunnel_comes_and_goes() {
    let host = Host::new();
    assert_eq!(host.revert("mm-work"), Done::default());
    assert!(!host.kept.folder.exists(), "nothing was asked of the disk");
    assert_eq!(host.apply("mm-work", "10.0.0.1").expect("applied").way, Some(Way::File));
    let ours = host.text();
    assert!(
        ours.contains("nameserver 10.0.0.1\nsearch corp.test\noptions timeout:1\n"),
        "{ours}"
    );
    assert!(!ours.contains("192.0.2.53"));
    host.apply("mm-work", "10.0.0.1").expect("again");
    assert_eq!(host.text(), ours);
    host.apply("mm-work", "10.0.0.2").expect("others");
    assert!(host.text().contains("nameserver 10.0.0.2\n") && !host.text().contains("10.0.0.1"));
    let done = host.revert("mm-work");
    assert_eq!((done.was_there, done.note), (true, None));
    assert_eq!(host.text(), BEFORE);
    assert!(host.is_clean());
    assert_eq!(host.revert("mm-work"), Done::default());
}

#[test]
fn the_last_of_two_tunnels_brings_back_what_was_there() {
    for (first, last) in [("mm-home", "mm-work"), ("mm-work", "mm-home")] {
        let host = Host::new();
        host.apply("mm-home", "10.1.0.1").expect("applied");
        host.apply("mm-work", "10.2.0.1").expect("applied");
        assert!(host.text().contains("nameserver 10.2.0.1\nnameserver 10.1.0.1\n"));
        host.revert(first);
        assert!(resolv_conf::names(&host.text(), last) && !resolv_conf::names(&host.text(), first));
        host.revert(last);
        assert_eq!(host.text(), BEFORE);
        assert!(host.is_clean());
    }
}

#[test]
fn there_are_no_more_tunnels_than_a_host_has() {
    let host = Host::new();
    for number in 0..MAX_WISHES {
        host.apply(&format!("mm-{number}"), "10.0.0.1").expect("applied");
    }
    let before = host.text();
    let error = host.apply("mm-work", "10.0.0.2").expect_err("refused").to_string();
    assert!(error.contains("the limit"), "{error}");
    assert_eq!(host.text(), before);
    host.apply("mm-0", "10.0.0.2").expect("one of them may change");
}

#[test]
fn what_somebody_else_has_written_stays() {
    let host = Host::new();
    host.apply("mm-work", "10.0.0.1").expect("applied");
    host.write("nameserver 203.0.113.53\n");
    let done = host.revert("mm-work");
    assert!(done.note.is_some_and(|note| note.contains("somebody else")));
    assert_eq!(host.text(), "nameserver 203.0.113.53\n");
    assert!(host.is_clean());
    // Even if it is ours with a line more.
    host.apply("mm-work", "10.0.0.1").expect("applied");
    let changed = host.text() + "nameserver 203.0.113.54\n";
    host.write(&changed);
    host.revert("mm-work");
    assert_eq!(host.text(), changed);
}

#[test]
fn what_somebody_else_has_written_comes_back_after_the_next_tunnel() {
    let host = Host::new();
    host.apply("mm-home", "10.1.0.1").expect("applied");
    host.write("nameserver 203.0.113.53\n");
    host.apply("mm-work", "10.2.0.1").expect("applied");
    assert!(host.text().contains("nameserver 10.2.0.1\n"));
    assert!(!host.text().contains("10.1.0.1"), "it may be long gone");
    host.revert("mm-home");
    host.revert("mm-work");
    assert_eq!(host.text(), "nameserver 203.0.113.53\n");
    assert!(host.is_clean());
}

#[test]
fn a_file_with_our_mark_and_no_book_is_not_taken_for_the_original() {
    let host = Host::new();
    host.apply("mm-work", "10.0.0.1").expect("applied");
    fs::remove_dir_all(&host.kept.folder).expect("removed");
    let ours = host.text();
    let error = host.apply("mm-work", "10.0.0.2").expect_err("refused").to_string();
    assert!(error.contains("has our mark"), "{error}");
    assert_eq!(host.text(), ours);
}

#[test]
fn network_manager_and_a_missing_resolver_are_left_in_peace() {
    let host = Host::new();
    for (text, words) in [
        (
            "# Generated by NetworkManager\nnameserver 192.0.2.1\n",
            "rc-manager=unmanaged",
        ),
        ("nameserver 127.0.0.53\n", "systemd-resolved's"),
    ] {
        host.write(text);
        let error = host.apply("mm-work", "10.0.0.1").expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(host.text(), text);
        assert!(host.is_clean());
    }
}

#[test]
fn a_link_comes_back_as_a_link() {
    let host = Host::new();
    let target = host.folder.path().join("target");
    fs::rename(&host.kept.resolv_conf, &target).expect("moved");
    symlink("target", &host.kept.resolv_conf).expect("link");
    host.apply("mm-work", "10.0.0.1").expect("applied");
    assert_eq!(
        fs::read_to_string(&target).expect("read"),
        BEFORE,
        "what it leads to is not ours"
    );
    assert!(host.text().contains("nameserver 10.0.0.1\n"));
    host.revert("mm-work");
    assert_eq!(
        fs::read_link(&host.kept.resolv_conf).expect("a link"),
        Path::new("target")
    );
    assert_eq!(host.text(), BEFORE);
}

/// What is on the disk after each step of an order, as if it had been killed there: the book with the file of before, the file of after
/// with the book, and for a mount point the file half written.
#[test]
fn a_kill_between_any_two_steps_is_made_good() {
    let host = Host::new();
    host.apply("mm-work", "10.0.0.1").expect("applied");
    let (book, ours) = (
        fs::read(host.kept.folder.join("host.json")).expect("a book"),
        host.text(),
    );
    for file in [BEFORE.to_owned(), ours.clone()] {
        host.write(&file);
        fs::write(host.kept.folder.join("host.json"), &book).expect("write");
        let done = host.revert("mm-work");
        assert_eq!((done.was_there, done.note), (true, None), "{file}");
        assert_eq!(host.text(), BEFORE);
        assert!(host.is_clean());
    }
    // The second tunnel's.
    host.apply("mm-home", "10.1.0.1").expect("applied");
    let first = host.text();
    host.apply("mm-work", "10.2.0.1").expect("applied");
    host.write(&first);
    host.apply("mm-work", "10.2.0.1").expect("again");
    assert!(host.text().contains("nameserver 10.2.0.1\n"));
    host.write(&first);
    host.revert("mm-home");
    host.revert("mm-work");
    assert_eq!(host.text(), BEFORE);
    // Our own temporary file.
    fs::write(host.folder.path().join(".resolv.conf.marmot"), "half").expect("write");
    host.apply("mm-work", "10.0.0.1").expect("applied");
    host.revert("mm-work");
    assert!(host.is_clean());
}

#[test]
fn a_book_explains_a_mount_point_that_was_half_written() {
    let host = Host::new();
    host.apply("mm-work", "10.0.0.1").expect("applied");
    let mut spot = host.kept.look().expect("found");
    let book = host.kept.book(&spot).expect("readable").expect("there");
    for bytes in [torn(BEFORE, &book.written), torn(&book.written, BEFORE)] {
        spot.bytes = bytes;
        spot.mounted = false;
        let whole = [BEFORE.as_bytes(), book.written.as_bytes()].contains(&spot.bytes.as_slice());
        assert!(whole || !book.explains(&spot), "a file is never half written");
        spot.mounted = true;
        assert!(book.explains(&spot));
    }
    spot.bytes = b"nameserver 203.0.113.1\n".to_vec();
    assert!(!book.explains(&spot));
}

#[test]
fn a_folder_that_cannot_be_written_leaves_the_file_as_it_is() {
    let host = Host::new();
    fs::write(&host.kept.folder, "in the way").expect("write");
    host.apply("mm-work", "10.0.0.1").expect_err("no book, no change");
    assert_eq!(host.text(), BEFORE);
}

#[test]
fn a_broken_book_is_named_and_nothing_is_changed() {
    let host = Host::new();
    host.apply("mm-work", "10.0.0.1").expect("applied");
    let ours = host.text();
    fs::write(host.kept.folder.join("host.json"), "{").expect("write");
    let error = host
        .kept
        .carry_out(&Order::revert("mm-work"))
        .expect_err("refused")
        .to_string();
    assert!(error.contains("host.json cannot be read"), "{error}");
    assert_eq!(host.text(), ours);
}
