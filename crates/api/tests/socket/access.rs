//! Who may do what, by the credentials that the kernel tells.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use api::{Peer, Privilege};

use crate::fake::{JOB, Site, get, post, skip, within};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

#[tokio::test]
async fn who_only_uses_cannot_start_housekeeping() {
    let site = Site::allowing(|_, privilege| privilege == Privilege::Use);
    for path in ["/v1/housekeeping/run", &format!("/v1/housekeeping/{JOB}/retry")] {
        let answer = site.raw(post(path, "")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "not_permitted"),
            "{path}"
        );
    }
    for request in [get("/v1/housekeeping"), post("/v1/up", ""), post("/v1/down", "")] {
        assert_eq!(site.raw(request).await.status, 200);
    }
    assert_eq!(site.fake.orders(), ["up", "down"]);
}

#[tokio::test]
async fn who_may_not_even_use_hears_so() {
    let site = Site::allowing(|_, _| false);
    let answer = site.raw(post("/v1/down", "")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "not_permitted"));
    assert_eq!(site.fake.orders(), [""; 0]);
}

#[tokio::test]
async fn the_rule_is_asked_about_the_real_peer() {
    let own = Peer::own().expect("credentials");
    let process = i32::try_from(std::process::id()).expect("small");
    let site = Site::allowing(move |peer, _| peer == own && peer.pid.is_none_or(|pid| pid == process));
    assert_eq!(site.raw(get("/v1/status")).await.status, 200);
}

#[tokio::test]
async fn another_user_uses_and_does_not_administer() {
    if Peer::own().expect("credentials").uid != 0 {
        skip(
            "another_user_uses_and_does_not_administer",
            "only root can become another user",
        );
        return;
    }
    let site = Site::new();
    for (path, mode) in [(site.folder().to_owned(), 0o755), (site.socket(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let Some(status) = curl_as_nobody(&site, "/v1/up").await else {
        skip("another_user_uses_and_does_not_administer", "there is no curl");
        return;
    };
    assert_eq!(status, "200");
    assert_eq!(
        curl_as_nobody(&site, "/v1/housekeeping/run").await.as_deref(),
        Some("403")
    );
    assert_eq!(site.fake.orders(), ["up"]);

    std::fs::set_permissions(site.socket(), std::fs::Permissions::from_mode(0o660)).expect("chmod");
    assert_eq!(
        curl_as_nobody(&site, "/v1/up").await.as_deref(),
        Some("000"),
        "not even connected"
    );
}

/// The status that curl gets for a POST; `None` if there is no curl.
async fn curl_as_nobody(site: &Site, path: &str) -> Option<String> {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--max-time",
            "20",
        ])
        .args(["--request", "POST", "--unix-socket"])
        .arg(site.socket())
        .arg(format!("http://marmot{path}"))
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY);
    let output = within(tokio::task::spawn_blocking(move || command.output()))
        .await
        .expect("no panic");
    output
        .ok()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
}
