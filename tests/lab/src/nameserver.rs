//! Name servers that remember what they were asked, and programs that ask whatever server their host tells them to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use platform::netns::Namespace;

use crate::Lab;
use crate::names::{PORT, answer, asked};

/// A name server: every name has one address. It serves until it is dropped.
#[derive(Debug)]
pub struct NameServer {
    socket: Arc<UdpSocket>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    /// Starts one at `at` on `host`, where every name has the address `told`.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub fn serve(host: &Namespace, at: IpAddr, told: Ipv4Addr) -> Result<Self> {
        let socket = host.run(|| UdpSocket::bind((at, PORT)))?;
        let socket = Arc::new(socket.with_context(|| format!("cannot serve names at {at}"))?);
        let list: Arc<Mutex<Vec<String>>> = Arc::default();
        let (ears, heard) = (Arc::clone(&socket), Arc::clone(&list));
        thread::spawn(move || {
            let mut query = [0; 1024];
            // A datagram of nothing from ourselves is the end.
            while let Ok((length @ 1.., from)) = ears.recv_from(&mut query) {
                let query = &query[..length];
                if let Some(name) = asked(query) {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                }
                if let Some(answer) = answer(query, told) {
                    // Who does not hear it asks again.
                    let _ = ears.send_to(&answer, from);
                }
            }
        });
        Ok(Self { socket, asked: list })
    }

    /// The names that it was asked for so far, in their order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        if let Ok(SocketAddr::V4(own)) = self.socket.local_addr() {
            let _ = self.socket.send_to(&[], own);
        }
    }
}

/// The address of `name`, as a program on `host` finds it: by getaddrinfo and the test's resolv.conf. `None` if it finds none.
///
/// # Errors
/// If the program cannot be started.
pub fn look_up(lab: &Lab, host: &Namespace, name: &str) -> Result<Option<Ipv4Addr>> {
    let mut command = lab.command(host, "getent")?;
    let output = command
        .args(["ahostsv4", name])
        .output()
        .context("cannot start getent")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // 2 is "there is no such name".
    ensure!(
        output.status.success() || output.status.code() == Some(2),
        "getent: {output:?}"
    );
    Ok(said.split_whitespace().next().and_then(|word| word.parse().ok()))
}
