//! The gateway's users file: who may log in, with which password, groups and reserved addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ConfigErrors;
use crate::gateway::GatewayConfig;

/// All users by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(pub BTreeMap<String, User>);

/// One user: `[users.<name>]`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Password hash as a PHC string (`$argon2id$...`); `None` means that no password lets this user in.
    pub password: Option<String>,
    /// Groups the user may choose.
    pub groups: Vec<String>,
    /// Reserved IPv4 address; inside of the pool.
    pub ipv4: Option<Ipv4Addr>,
    /// Reserved IPv6 address; inside of the pool.
    pub ipv6: Option<Ipv6Addr>,
    /// A disabled user cannot log in, and its sessions end at the next reload.
    pub disabled: bool,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("groups", &self.groups)
            .field("ipv4", &self.ipv4)
            .field("ipv6", &self.ipv6)
            .field("disabled", &self.disabled)
            .finish()
    }
}

impl Users {
    /// Reads the text of a users file. `file` is its name for messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigErrors> {
        let _ = text;
        Err(ConfigErrors::unreadable(file, "the parser is not written yet"))
    }

    /// As `parse`, and also checks that reservations lie in the pool of `gateway`, are not its own address, and that every
    /// group is one of its groups.
    pub fn parse_for(text: &str, file: &str, gateway: &GatewayConfig) -> Result<Self, ConfigErrors> {
        let _ = gateway;
        Self::parse(text, file)
    }

    /// The text of a users file with these users. Comments of an earlier file are not kept.
    pub fn to_toml(&self) -> String {
        String::new()
    }
}
