//! nftables, through the program `nft`: it compiles rules to what the kernel takes, and sends a whole script as one transaction.

use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::PlatformError;
use crate::firewall::{Counter, PATIENCE, Table};
use crate::network::Restored;

type Result<T> = std::result::Result<T, PlatformError>;

/// Where distributions put it. PATH is not asked: a daemon with privileges runs no program that its environment names.
const PROGRAMS: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// What of nft's words goes into an error, in bytes: its first complaint.
const MAX_COMPLAINT: usize = 400;

/// The program `nft` of this host.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Finds the program.
    ///
    /// # Errors
    /// [`PlatformError::FirewallMissing`] where it is not installed.
    pub fn find() -> Result<Self> {
        let found = PROGRAMS.iter().map(PathBuf::from).find(|path| path.is_file());
        found
            .map(|program| Self { program })
            .ok_or(PlatformError::FirewallMissing)
    }

    /// Carries `script` out as one transaction: all of it, or nothing. Needs a tokio runtime with I/O and time. Once begun, it is not undone by
    /// dropping the future: the program is killed, and the kernel has taken all or nothing.
    ///
    /// # Errors
    /// What nft or the kernel has against it, or [`PATIENCE`] is over; `what` is the verb phrase for the message ("load the lockdown").
    pub async fn load(&self, script: &str, what: &str) -> Result<()> {
        self.run(&["-f", "-"], script, what).await.map(|_| ())
    }

    /// Removes `tables`, all in one transaction; those that are not there are no error.
    ///
    /// # Errors
    /// As for [`Nft::load`].
    pub async fn remove(&self, tables: &[Table]) -> Result<()> {
        let names: Vec<_> = tables.iter().map(Table::to_string).collect();
        self.remove_named(&names).await
    }

    /// The same for tables of the family `inet` that have no slot: a gateway's.
    ///
    /// # Errors
    /// As for [`Nft::load`].
    pub async fn remove_named(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        // `destroy table` would say the same, from nft 1.0.8 and Linux 6.3 on.
        let script: String = names
            .iter()
            .map(|name| format!("add table inet {name}\ndelete table inet {name}\n"))
            .collect();
        self.load(&script, &format!("remove the firewall table {}", names.join(", ")))
            .await
    }

    /// The tables of tunnels of this host, whoever made them.
    ///
    /// # Errors
    /// As for [`Nft::load`].
    pub async fn tables(&self) -> Result<Vec<Table>> {
        let output = self
            .run(&["-j", "list", "tables", "inet"], "", "list the firewall tables")
            .await?;
        let listed = items(&output, "list the firewall tables")?;
        Ok(listed.filter_map(|item| Table::named(&item.table?.name)).collect())
    }

    /// As [`Nft::remove`], with the proof.
    pub async fn clear(&self, tables: &[Table]) -> Restored {
        let words: Vec<_> = tables.iter().map(|table| format!("firewall table {table}")).collect();
        match self.remove(tables).await {
            Ok(()) => Restored::new(words, Vec::new()),
            Err(error) => Restored::new(Vec::new(), vec![format!("{}: {error}", words.join(", "))]),
        }
    }

    /// The tunnel that made a lockdown, which is the name of its first, empty chain; `None` if it does not say, or is not there.
    ///
    /// # Errors
    /// As for [`Nft::load`].
    pub async fn owner(&self, table: Table) -> Result<Option<String>> {
        let what = format!("list the firewall table {table}");
        let output = self.run(&["-j", "list", "chains", "inet"], "", &what).await?;
        let name = table.to_string();
        let chains = items(&output, &what)?.filter_map(|item| item.chain);
        let mut of_table = chains.filter(|chain| chain.table.as_deref() == Some(name.as_str()));
        Ok(of_table.find_map(|chain| chain.name.strip_prefix(plan::OWNER).map(str::to_owned)))
    }

    /// All tables of this host, whoever made them, in nft's words and without what counts.
    ///
    /// # Errors
    /// As for [`Nft::load`].
    pub(crate) async fn ruleset(&self) -> Result<String> {
        let output = self
            .run(&["-s", "list", "ruleset"], "", "list the packet filter")
            .await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// The named counters of a table.
    ///
    /// # Errors
    /// As for [`Nft::load`]; also if there is no such table.
    pub async fn counters(&self, table: Table) -> Result<Vec<Counter>> {
        self.counters_named(&table.to_string()).await
    }

    /// The same for a table of the family `inet` that has no slot.
    ///
    /// # Errors
    /// As there.
    pub async fn counters_named(&self, name: &str) -> Result<Vec<Counter>> {
        let what = format!("read the counters of {name}");
        let output = self
            .run(&["-j", "list", "counters", "table", "inet", name], "", &what)
            .await?;
        let listed = items(&output, &what)?;
        Ok(listed.filter_map(|item| item.counter).map(Counter::from).collect())
    }

    async fn run(&self, arguments: &[&str], input: &str, what: &str) -> Result<Vec<u8>> {
        let failed = |source| PlatformError::Network {
            step: what.to_owned(),
            source,
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "nft does not come to an end");
        let output = timeout(PATIENCE, self.output(arguments, input)).await;
        let output = output.map_err(|_| failed(late()))?.map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let complaint = complaint(&output.stderr);
        if complaint.contains("Operation not permitted") {
            return Err(PlatformError::NotPermitted {
                what: what.to_owned(),
                hint: super::capabilities::NET_ADMIN_HINT.to_owned(),
            });
        }
        Err(failed(io::Error::other(complaint)))
    }

    async fn output(&self, arguments: &[&str], input: &str) -> io::Result<Output> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take();
        let write = async move {
            if let Some(stdin) = &mut stdin {
                // One that ends early says why on its standard error.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        output
    }
}

/// What `nft -j` lists. There is more in each item than is asked for here.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    table: Option<Named>,
    counter: Option<Counted>,
    chain: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    /// The table it is in, if it is none itself.
    table: Option<String>,
}

#[derive(Deserialize)]
struct Counted {
    name: String,
    packets: u64,
    bytes: u64,
}

impl From<Counted> for Counter {
    fn from(Counted { name, packets, bytes }: Counted) -> Self {
        Self { name, packets, bytes }
    }
}

fn items(output: &[u8], what: &str) -> Result<impl Iterator<Item = Item> + use<>> {
    let listing: Listing = serde_json::from_slice(output).map_err(|error| PlatformError::Network {
        step: what.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    Ok(listing.nftables.into_iter())
}

/// The first line of what nft says, which names the line of the script and the reason.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("nft failed without a word");
    first.chars().take(MAX_COMPLAINT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_whatever_else_it_tells() {
        let listing = br#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name": "marmot_flows_3", "handle": 1}},
            {"counter": {"family": "inet", "name": "r0", "table": "marmot_flows_3", "handle": 2, "packets": 7, "bytes": 420}}]}"#;
        let found: Vec<_> = items(listing, "list").expect("a listing").collect();
        assert_eq!(found.len(), 3);
        let counter = found.into_iter().find_map(|item| item.counter).map(Counter::from);
        assert_eq!(
            counter.map(|counter| (counter.name, counter.packets, counter.bytes)),
            Some(("r0".to_owned(), 7, 420))
        );
    }

    #[test]
    fn the_first_complaint_is_told() {
        assert_eq!(
            complaint(b"\n/dev/stdin:1:5-7: Error: syntax error\nmore\n"),
            "/dev/stdin:1:5-7: Error: syntax error"
        );
        assert_eq!(complaint(b""), "nft failed without a word");
    }
}
