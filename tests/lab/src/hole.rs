//! Packets that vanish: a table of nftables on a host that forwards or receives them, gone when dropped.

use anyhow::{Result, ensure};
use platform::netns::Namespace;

use crate::{Lab, PATIENCE};

/// A host that swallows something.
#[derive(Debug)]
pub struct Hole<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
}

impl<'a> Hole<'a> {
    /// From now on `host` drops what it forwards or receives and `matches`, in the words of nft(8), such as
    /// `ip daddr 198.51.100.1`. One at a time on a host.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn dig(lab: &'a Lab, host: &'a Namespace, matches: &[String]) -> Result<Self> {
        let mut script = String::from("table inet hole {\n");
        for hook in ["forward", "input"] {
            script.push_str(&format!("chain {hook} {{ type filter hook {hook} priority 0;\n"));
            for rule in matches {
                script.push_str(&format!("{rule} drop\n"));
            }
            script.push_str("}\n");
        }
        script.push_str("}\n");
        nft(lab, host, &script)?;
        Ok(Self { lab, host })
    }
}

impl Drop for Hole<'_> {
    fn drop(&mut self) {
        if let Err(e) = nft(self.lab, self.host, "delete table inet hole\n") {
            eprintln!("{e:#}");
        }
    }
}

fn nft(lab: &Lab, host: &Namespace, script: &str) -> Result<()> {
    let mut command = lab.command(host, "nft")?;
    command.args(["-f", "-"]);
    let status = lab.spawn_with_input("nft", command, script)?.wait_exit(PATIENCE)?;
    ensure!(status.success(), "nft ended with {status}");
    Ok(())
}
