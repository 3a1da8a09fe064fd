//! A client is killed at the first message that it sends, at the second, and so on, through a whole start and a whole stop: `marmot cleanup` restores
//! the host every time.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Mark, PATIENCE, Process, Settings, Signal, client_settings, eventually, gateway_settings, marmot,
    start_gateway,
};

/// A whole life sends fewer messages: to the kernel, the name of each step; to the gateway, a login.
const MOST: usize = 400;

fn main() -> ExitCode {
    lab::run(
        &["ip", "nft", "strace"],
        lab::tests![a_kill_at_any_message_of_a_start_or_a_stop_is_cleaned_up],
    )
}

fn a_kill_at_any_message_of_a_start_or_a_stop_is_cleaned_up(lab: &Lab) -> Result<()> {
    let gateway: Settings = gateway_settings(lab, lab.site())?.without("network.routes");
    let _gateway = start_gateway(lab, lab.site(), "gateway", &gateway)?;
    let settings = client_settings(lab, lab.site())?
        .with("dtls.enabled", false)
        .with("lockdown.mode", "while_up");
    let before = lab.client().snapshot()?;
    let (mut kills, mut dirty) = (0, 0);
    for nth in 1..MOST {
        let name = format!("victim-{nth}");
        let file = settings.write(&lab.folder().join(format!("{name}.toml")))?;
        let ours = marmot(lab, lab.client(), &["client", "-c"])?;
        let mut command = lab.command(lab.client(), "strace")?;
        let fault = format!("inject=sendto,sendmsg:signal=SIGKILL:when={nth}");
        // The client keeps its own process number; its children are not watched: nft ends its transaction, or does not begin it.
        let options = [
            "-D",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=sendto,sendmsg",
            "-e",
            &fault,
        ];
        command
            .args(options)
            .arg(ours.get_program())
            .args(ours.get_args())
            .arg(&file);
        let client = lab.spawn(&name, command)?;
        let survived = comes_to(&client, "session.start")? && {
            client.signal(Signal::TERM)?;
            comes_to(&client, "stop.ack")?
        };
        client.wait_exit(PATIENCE).with_context(|| name.clone())?;
        let left = before.changes(&lab.client().snapshot()?);
        dirty += usize::from(!left.is_empty());
        let mut cleanup = marmot(lab, lab.client(), &["cleanup", "-c"])?;
        let output = cleanup.arg(&file).output().context("cannot clean up")?;
        ensure!(output.status.success(), "{name}: {output:?}");
        let changes = before.changes(&lab.client().snapshot()?);
        ensure!(changes.is_empty(), "{name}: cleanup left {changes:#?} of {left:#?}");
        if survived {
            lab.note(&format!(
                "{kills} kills at messages 1 to {nth}; something was left on the host after {dirty} of them; cleaned up every time"
            ));
            return Ok(());
        }
        kills += 1;
    }
    anyhow::bail!("a start and a stop send more than {MOST} messages")
}

/// Waits for a word or the end.
fn comes_to(client: &Process, word: &str) -> Result<bool> {
    eventually("a word or an end", PATIENCE, || {
        if client.output_since(Mark::default()).contains(word) {
            return Ok(Some(true));
        }
        Ok((!client.is_running()).then_some(false))
    })
}
