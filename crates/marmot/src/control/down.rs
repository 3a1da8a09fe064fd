//! `marmot down`: the acknowledgement of a stop.

use api::{Client, Down, Owed};

use crate::control::trouble::Trouble;
use crate::control::words;
use crate::exit::{Exit, answer};

pub(super) async fn run(client: &Client, json: bool) -> Result<(), Trouble> {
    let down = client.down().await?;
    answer(&if json { api::line(&down) } else { text(&down) });
    if down.residue.is_empty() {
        return Ok(());
    }
    let message = format!(
        "something is left on this host: {}; run `marmot cleanup` as root",
        residue(&down)
    );
    Err(Trouble::new(Exit::Error, "residue", message))
}

/// One line: how fast, what was left, what is owed.
pub(super) fn text(down: &Down) -> String {
    let mut line = match (down.already, &down.error) {
        (true, _) => "it was down already".to_owned(),
        (false, None) => format!("down after {}", words::milliseconds(down.ms)),
        (false, Some(error)) => format!(
            "down after {}, because of an error: {}",
            words::milliseconds(down.ms),
            words::plain(error)
        ),
    };
    if !down.residue.is_empty() {
        line += &format!(", residue: {}", residue(down));
    }
    match (down.owed, &down.job) {
        (Owed::Recorded, Some(job)) => line += &format!("; housekeeping {} follows", words::plain(job)),
        (Owed::Recorded, None) => line += "; housekeeping follows",
        (Owed::DiskTooSlow, _) => line += "; the disk has not yet taken what is owed",
        (Owed::Nothing | Owed::Unknown, _) => {}
    }
    line + "\n"
}

fn residue(down: &Down) -> String {
    let words: Vec<String> = down.residue.iter().map(|words| words::plain(words)).collect();
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_says_how_fast_it_was_and_what_follows() {
        let mut down = Down {
            ms: 2.44,
            owed: Owed::Recorded,
            job: Some("1800000000-0123456789abcdef".to_owned()),
            ..Down::default()
        };
        assert_eq!(
            text(&down),
            "down after 2.4 ms; housekeeping 1800000000-0123456789abcdef follows\n"
        );
        down.residue = vec!["dns".to_owned(), "rule 18123: permission denied".to_owned()];
        down.owed = Owed::DiskTooSlow;
        assert_eq!(
            text(&down),
            "down after 2.4 ms, residue: dns; rule 18123: permission denied; the disk has not yet taken what is owed\n"
        );
        let nothing = Down {
            already: true,
            ..Down::default()
        };
        assert_eq!(text(&nothing), "it was down already\n");
    }
}
