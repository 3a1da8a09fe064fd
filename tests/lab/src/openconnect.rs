//! Debian's openconnect on a client's host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use platform::netns::Namespace;

use crate::marmot::{PASSWORD, USER};
use crate::{Clock, GATEWAY_NAME, Identity, Lab, Mark, PATIENCE, Process, Site};

/// Name of its TUN device.
pub const STOCK_INTERFACE: &str = "tun9";

/// Where Debian keeps the standard script.
const STANDARD_SCRIPT: &str = "/usr/share/vpnc-scripts/vpnc-script";

/// What its standard script does, without touching resolv.conf or the host's main routes more than needed.
const SCRIPT: &str = r#"#!/bin/sh
[ "$reason" = connect ] || exit 0
ip link set dev "$TUNDEV" up mtu "${INTERNAL_IP4_MTU:-1400}"
[ -n "$INTERNAL_IP4_ADDRESS" ] && ip address add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
[ -n "$INTERNAL_IP6_ADDRESS" ] && ip -6 address add "$INTERNAL_IP6_ADDRESS/128" dev "$TUNDEV" nodad
routes() {
  i=0
  while [ "$i" -lt "${2:-0}" ]; do
    eval "net=\$CISCO_$1_${i}_ADDR/\$CISCO_$1_${i}_MASKLEN"
    ip $3 route add "$net" dev "$TUNDEV"
    i=$((i + 1))
  done
}
routes SPLIT_INC "$CISCO_SPLIT_INC" ""
routes IPV6_SPLIT_INC "$CISCO_IPV6_SPLIT_INC" -6
echo "script: addresses $INTERNAL_IP4_ADDRESS $INTERNAL_IP6_ADDRESS"
"#;

/// How it is to be called.
#[derive(Clone, Debug)]
pub struct Openconnect<'a> {
    lab: &'a Lab,
    host: &'a Namespace,
    name: String,
    arguments: Vec<String>,
    url: String,
    input: String,
    clock: Option<&'a Clock>,
}

impl<'a> Openconnect<'a> {
    /// A call from `host` to the gateway of `site`, TLS only, that trusts the lab's authority.
    ///
    /// # Errors
    /// If its script cannot be written.
    pub fn new(lab: &'a Lab, host: &'a Namespace, site: &Site, name: &str) -> Result<Self> {
        let script = lab.file("vpnc-min", SCRIPT)?;
        let ca = lab.pki().ca();
        let arguments = [
            "--no-dtls",
            "--verbose",
            "--timestamp",
            "--reconnect-timeout=60",
            &format!("--cafile={}", ca.display()),
            &format!("--script=sh {}", script.display()),
            &format!("--interface={STOCK_INTERFACE}"),
            &format!("--resolve={GATEWAY_NAME}:{}", site.plan.gateway_v4()),
        ];
        Ok(Self {
            lab,
            host,
            name: name.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            url: format!("https://{GATEWAY_NAME}"),
            input: String::new(),
            clock: None,
        })
    }

    /// Adds an argument.
    #[must_use]
    pub fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With packets over UDP where the gateway grants it; see [`stock_channel`].
    #[must_use]
    pub fn with_dtls(mut self) -> Self {
        self.arguments.retain(|argument| argument != "--no-dtls");
        self
    }

    /// With the script that Debian's package calls by default, which also writes resolv.conf.
    #[must_use]
    pub fn standard_script(mut self) -> Self {
        self.arguments.retain(|argument| !argument.starts_with("--script="));
        self.with(&format!("--script={STANDARD_SCRIPT}"))
    }

    /// Over IPv6.
    #[must_use]
    pub fn over_ipv6(self, site: &Site) -> Self {
        Self {
            url: format!("https://[{}]", site.plan.gateway_v6()),
            ..self
        }
    }

    /// Trusting another authority than the lab's.
    #[must_use]
    pub fn trusting(mut self, ca: &Path) -> Self {
        self.arguments.retain(|argument| !argument.starts_with("--cafile="));
        self.with(&format!("--cafile={}", ca.display()))
    }

    /// Logs in with a name and a password.
    #[must_use]
    pub fn login_as(mut self, user: &str, password: &str) -> Self {
        self.input = format!("{password}\n");
        self.with(&format!("--user={user}")).with("--passwd-on-stdin")
    }

    /// Logs in with the lab's user and this password.
    #[must_use]
    pub fn password(self, password: &str) -> Self {
        self.login_as(USER, password)
    }

    /// Logs in with the lab's user and the right password.
    #[must_use]
    pub fn good_password(self) -> Self {
        self.password(PASSWORD)
    }

    /// Logs in with a certificate.
    #[must_use]
    pub fn certificate(self, identity: &Identity) -> Self {
        self.with(&format!("--certificate={}", identity.certificate.display()))
            .with(&format!("--sslkey={}", identity.key.display()))
            .with("--non-inter")
    }

    /// Logs in with what [`Openconnect::authenticate`] found.
    #[must_use]
    pub fn cookie(self, cookie: &str) -> Self {
        self.with(&format!("--cookie={cookie}"))
    }

    /// Under these clocks.
    #[must_use]
    pub fn under(self, clock: &'a Clock) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self) -> Result<Process> {
        let mut command = self.lab.command(self.host, PathBuf::from("openconnect"))?;
        command.args(&self.arguments).arg(&self.url);
        if let Some(clock) = self.clock {
            clock.rule(&mut command);
        }
        self.lab.spawn_with_input(&self.name, command, &self.input)
    }

    /// Starts it and waits until its tunnel is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn up(&self) -> Result<Process> {
        let process = self.spawn()?;
        if !self
            .arguments
            .iter()
            .any(|argument| argument.ends_with(STANDARD_SCRIPT))
        {
            process.wait_for("script: addresses", PATIENCE)?;
        }
        process.wait_for("Configured as", PATIENCE)?;
        Ok(process)
    }

    /// Logs in only, and returns the cookie.
    ///
    /// # Errors
    /// If the login fails.
    pub fn authenticate(self) -> Result<String> {
        let process = self.with("--authenticate").spawn()?;
        process.wait_exit(PATIENCE)?;
        let output = process.output();
        let line = output.lines().find_map(|line| line.strip_prefix("COOKIE='"));
        let cookie = line.and_then(|line| line.strip_suffix('\''));
        cookie
            .map(str::to_owned)
            .context("openconnect --authenticate printed no cookie")
    }
}

/// The addresses that its script was given, from its output.
///
/// # Errors
/// If the script did not run.
pub fn stock_addresses(process: &Process) -> Result<String> {
    process.wait_for("script: addresses", PATIENCE)
}

/// Waits until its packets go over UDP, and says by which suite, in the words of its TLS library, such as
/// `(DTLS1.2)-(PSK)-(AES-256-GCM)`.
///
/// # Errors
/// If that does not happen.
pub fn stock_channel(process: &Process) -> Result<String> {
    let line = process.wait_for_line(Mark::default(), &["Established DTLS connection"], PATIENCE)?;
    let suite = line
        .split_once("Ciphersuite ")
        .map(|(_, suite)| suite.trim_end_matches('.'));
    suite
        .map(str::to_owned)
        .with_context(|| format!("no suite in {line:?}"))
}
