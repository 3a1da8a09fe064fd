//! The data path as a picture, with the addresses of this run.

use std::net::SocketAddr;

use super::{setup, world};

/// Columns inside of the boxes, and between them.
const BOX: usize = 24;
const CABLE: usize = 20;

/// Draws it. `client` and `gateway` are the ends of the TLS connection.
pub(crate) fn draw(client: Option<SocketAddr>, gateway: Option<SocketAddr>, namespaces: bool) -> String {
    let text = |address: Option<SocketAddr>| address.map_or_else(String::new, |address| address.to_string());
    let (device, gateway_device, middle) = if namespaces {
        (setup::DEVICE, "marmot-gw", "\"internet\"")
    } else {
        ("memory", "memory", "loopback")
    };
    let edge = format!("+{}+", "-".repeat(BOX));
    let row = |left: String, middle: &str, right: String, lan: &str| {
        let (start, end) = if middle.starts_with('=') { ("", "") } else { ("|", "|") };
        let inner = BOX + 1 - start.len();
        format!("|{left:<inner$}{start}{middle:^CABLE$}{end}{right:<inner$}|{lan}")
    };
    let (inside, lan) = (setup::TUNNEL_V4, world::HOST);
    let rows = [
        format!(
            " {:^BOX$} {middle:^CABLE$} {:^BOX$}      {:^14}",
            "client", "gateway", "LAN"
        ),
        format!("{edge}{:CABLE$}{edge}", ""),
        row("  ping, download".into(), "", String::new(), "     +--------------+"),
        row(
            format!("    | {inside}"),
            "",
            format!("    +{}", "-".repeat(BOX - 5)),
            &format!("-----| {lan:<13}|"),
        ),
        row(
            format!("  [{device}]"),
            "",
            format!("  [{gateway_device}]"),
            "     | http server  |",
        ),
        row("    |".into(), "", "    |".into(), "     +--------------+"),
        row(
            "  marmot client =========".into(),
            "= TLS over one TCP =",
            "== marmot gateway".into(),
            "",
        ),
        row(
            format!("  {}", text(client)),
            "connection",
            format!("  {}", text(gateway)),
            "",
        ),
        format!("{edge}{:CABLE$}{edge}", ""),
    ];
    rows.map(|row| row.trim_end().to_owned()).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_fits_the_page_and_its_boxes_are_closed() {
        let client = Some("192.0.2.2:41234".parse().expect("address"));
        let gateway = Some("198.51.100.2:443".parse().expect("address"));
        for namespaces in [true, false] {
            let picture = draw(client, gateway, namespaces);
            for line in picture.lines() {
                assert!(line.chars().count() <= 95, "{picture}");
            }
            let end = |line: &str| line.chars().nth(2 * BOX + CABLE + 3);
            for line in picture.lines().skip(1) {
                assert!(
                    line.starts_with(['|', '+']) && matches!(end(line), Some('|' | '+')),
                    "{picture}"
                );
            }
        }
    }
}
