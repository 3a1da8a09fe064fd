//! Tests of installing into a folder, as for an image.

use std::fs;
use std::path::Path;

use super::*;
use crate::cli::ServiceName;

const CLIENT: &str = "[gateway]\nurl = \"https://gw.test\"\n[tunnel]\nname = \"work\"\n[login]\nuser = \"alice\"\n";

fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    configure(root.path(), "work", CLIENT);
    root
}

fn configure(root: &Path, stem: &str, text: &str) {
    fs::create_dir_all(root.join("etc/marmot")).unwrap();
    fs::write(root.join(format!("etc/marmot/{stem}.toml")), text).unwrap();
}

fn name(root: &Path, stem: &str) -> ServiceName {
    ServiceName {
        role: ServiceRole::Client,
        file: Some(format!("/etc/marmot/{stem}.toml").into()),
        root: Some(root.to_owned()),
        json: false,
    }
}

fn install_client(root: &Path, stem: &str) -> Result<(), Failure> {
    let service = name(root, stem);
    install(&InstallService { service, enable: false })
}

fn uninstall_client(root: &Path, stem: &str) -> Result<(), Failure> {
    let service = name(root, stem);
    uninstall(&UninstallService { service })
}

/// Every file and folder below, with what is in the files.
fn tree(root: &Path) -> Vec<(PathBuf, Option<String>)> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        for path in folder(&path).unwrap() {
            if path.is_dir() {
                pending.push(path.clone());
                all.push((path, None));
            } else {
                let text = fs::read_to_string(&path).unwrap();
                all.push((path, Some(text)));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn installing_twice_changes_nothing_more() {
    let root = root();
    install_client(root.path(), "work").unwrap();
    let first = tree(root.path());
    assert!(root.path().join("etc/systemd/system/marmot-client@.service").is_file());
    install_client(root.path(), "work").unwrap();
    assert_eq!(tree(root.path()), first);
}

#[test]
fn what_is_uninstalled_leaves_no_trace() {
    let root = root();
    let before = tree(root.path());
    install_client(root.path(), "work").unwrap();
    uninstall_client(root.path(), "work").unwrap();
    assert_eq!(tree(root.path()), before);
    uninstall_client(root.path(), "work").unwrap();
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_file_of_somebody_else_stops_the_installation_before_it_begins() {
    let root = root();
    let path = root.path().join("etc/systemd/system/marmot-housekeeping@.timer");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "[Timer]\n").unwrap();
    let before = tree(root.path());
    let error = install_client(root.path(), "work").unwrap_err().to_string();
    assert!(error.contains("marmot-housekeeping@.timer"), "{error}");
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_unit_changed_by_hand_stays_when_the_rest_is_uninstalled() {
    let root = root();
    install_client(root.path(), "work").unwrap();
    let path = root.path().join("etc/systemd/system/marmot-client@.service");
    let changed = fs::read_to_string(&path).unwrap() + "# mine\n";
    fs::write(&path, &changed).unwrap();
    uninstall_client(root.path(), "work").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), changed);
    assert!(!root.path().join("etc/sysusers.d").exists());
}

#[test]
fn an_older_version_is_replaced_and_still_goes_with_its_folders() {
    let root = root();
    let before = tree(root.path());
    install_client(root.path(), "work").unwrap();
    let file = files::needed_by(ServiceRole::Client)
        .find(|file| file.place(root.path()).ends_with("marmot-client@.service"))
        .unwrap();
    let Found::Older { folders } = file.find(root.path(), "/opt/marmot").unwrap() else {
        panic!("for a program elsewhere it is another text");
    };
    file.write(root.path(), "/opt/marmot", folders).unwrap();
    let text = fs::read_to_string(file.place(root.path())).unwrap();
    assert!(text.contains("ExecStart=/opt/marmot client"), "{text}");
    install_client(root.path(), "work").unwrap();
    uninstall_client(root.path(), "work").unwrap();
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_configuration_that_the_service_would_not_find_is_refused() {
    let root = root();
    let refused = |stem: &str, text: &str, words: &str| {
        configure(root.path(), stem, text);
        let before = tree(root.path());
        let failure = install_client(root.path(), stem).unwrap_err();
        assert_eq!(failure.exit, Exit::Config as u8);
        assert!(failure.to_string().contains(words), "{failure}");
        assert_eq!(tree(root.path()), before);
    };
    refused("home", CLIENT, "call the file work.toml");
    let elsewhere = CLIENT.replace("name = \"work\"", "name = \"work\"\nstate_dir = \"/srv\"");
    refused("work", &elsewhere, "[tunnel] state_dir is /srv");
    refused("broken", "[tunnel", "broken.toml");
}

#[test]
fn a_program_where_a_service_cannot_see_it_is_refused() {
    assert!(usable(Path::new("/home/alice/marmot")).is_err());
    assert!(usable(Path::new("/opt/100%/marmot")).is_err());
    assert_eq!(
        usable(Path::new("/usr/local/bin/marmot")).unwrap(),
        "/usr/local/bin/marmot"
    );
}
