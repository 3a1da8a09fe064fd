//! The gateway's users file: who may log in, with which password, groups and reserved addresses.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::document::{Document, Key};
use crate::gateway::{GatewayConfig, Pool};
use crate::section::Section;
use crate::{ConfigErrors, names};

/// Groups of one user.
const MAX_GROUPS: usize = 32;

/// The costliest password hash that is accepted, so that no line of this file can eat the gateway's memory and time:
/// memory in KiB, passes, lanes.
const MAX_COST: [(&str, u32); 3] = [("m", 262_144), ("t", 16), ("p", 16)];

/// The longest password hash.
const MAX_HASH_BYTES: usize = 512;

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

impl Users {
    /// Reads the text of a users file. `file` is its name for messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigErrors> {
        read(text, file, None)
    }

    /// As `parse`, and also checks that reservations lie in the pool of `gateway`, are not its own address, and that
    /// every group is one of its groups.
    pub fn parse_for(text: &str, file: &str, gateway: &GatewayConfig) -> Result<Self, ConfigErrors> {
        read(text, file, Some(gateway))
    }

    /// The text of a users file with these users. Comments of an earlier file are not kept.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# Users of a Marmot gateway, written by `marmot user`.\n");
        for (name, user) in &self.0 {
            write_user(&mut text, name, user).expect("writing to a string does not fail");
        }
        text
    }

    /// Every valid key of a user, with its default and limit. The section is called `users.NAME`.
    pub fn keys() -> Vec<Key> {
        let document = Document::parse("[users.x]", "", Path::new("")).expect("the text is TOML");
        for (_, section) in document.sections("users", SECTION) {
            user(&section);
        }
        document.keys()
    }
}

/// Whether `name` can be the name of a user; says why not.
pub fn check_name(name: &str) -> Result<(), String> {
    names::user(name)
        .map(|_| ())
        .map_err(|why| format!("`{}` {why}: {}", name.escape_debug(), names::USER))
}

const SECTION: &str = "users.NAME";

fn read(text: &str, file: &str, gateway: Option<&GatewayConfig>) -> Result<Users, ConfigErrors> {
    let document = Document::parse(text, file, Path::new(""))?;
    let mut users = Users::default();
    let mut taken: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (name, section) in document.sections("users", SECTION) {
        if let Err(why) = check_name(&name) {
            section.wrong_section(why);
        }
        let user = user(&section);
        for (key, address) in reservations(&user) {
            if let Some(other) = taken.insert(address, name.clone()) {
                section.wrong(key, format!("{address} is reserved for users.{other} already"), None);
            }
        }
        if let Some(gateway) = gateway {
            check_reservations(&section, &user, &gateway.pool);
            check_groups(&section, &user, &gateway.auth.groups);
        }
        users.0.insert(name, user);
    }
    document.finish(Some(users))
}

fn user(section: &Section<'_, '_>) -> User {
    let address = "an address of the pool";
    User {
        password: section.optional("password", "a hash; `marmot user passwd` makes one", password_hash),
        groups: section.list("groups", &[], MAX_GROUPS, names::GROUPS, names::user),
        ipv4: section.optional("ipv4", address, |text| {
            text.parse().map_err(|_| "is not an IPv4 address".into())
        }),
        ipv6: section.optional("ipv6", address, |text| {
            text.parse().map_err(|_| "is not an IPv6 address".into())
        }),
        disabled: section.boolean("disabled", false),
    }
}

/// An Argon2id hash in PHC form: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`. Messages do not repeat it.
fn password_hash(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('$').collect();
    let ["", "argon2id", "v=19", cost, salt, hash] = parts[..] else {
        return Err("is not an argon2id hash".into());
    };
    let base64 = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    };
    if text.len() > MAX_HASH_BYTES || salt.len() < 11 || hash.len() < 22 || !base64(salt) || !base64(hash) {
        return Err("is not a complete argon2id hash".into());
    }
    for (part, (name, max)) in cost.splitn(3, ',').zip(MAX_COST) {
        let value = part
            .strip_prefix(name)
            .and_then(|part| part.strip_prefix('='))
            .and_then(|part| part.parse().ok());
        match value {
            Some(value) if (1..=max).contains(&value) => {}
            Some(_) => return Err(format!("asks for more work than allowed: {name} is at most {max}")),
            None => return Err("is not an argon2id hash with m, t and p".into()),
        }
    }
    if cost.matches(',').count() != 2 {
        return Err("is not an argon2id hash with m, t and p".into());
    }
    Ok(text.to_string())
}

fn reservations(user: &User) -> impl Iterator<Item = (&'static str, IpAddr)> {
    let ipv4 = user.ipv4.map(|address| ("ipv4", IpAddr::V4(address)));
    ipv4.into_iter()
        .chain(user.ipv6.map(|address| ("ipv6", IpAddr::V6(address))))
}

fn check_reservations(section: &Section<'_, '_>, user: &User, pool: &Pool) {
    if let Some(address) = user.ipv4 {
        match pool.ipv4 {
            None => section.wrong("ipv4", "the gateway has no IPv4 pool", None),
            Some(net) if !net.contains(&address) || address == net.network() || address == net.broadcast() => {
                section.wrong(
                    "ipv4",
                    format!("{address} is not a host address of the pool {net}"),
                    None,
                );
            }
            Some(_) if pool.gateway_ipv4() == Some(address) => {
                section.wrong(
                    "ipv4",
                    format!("{address} is the gateway's own address in the pool"),
                    None,
                );
            }
            Some(_) => {}
        }
    }
    if let Some(address) = user.ipv6 {
        match pool.ipv6 {
            None => section.wrong("ipv6", "the gateway has no IPv6 pool", None),
            Some(net) if !net.contains(&address) || address == net.network() => {
                section.wrong(
                    "ipv6",
                    format!("{address} is not a host address of the pool {net}"),
                    None,
                );
            }
            Some(_) if pool.gateway_ipv6() == Some(address) => {
                section.wrong(
                    "ipv6",
                    format!("{address} is the gateway's own address in the pool"),
                    None,
                );
            }
            Some(_) => {}
        }
    }
}

fn check_groups(section: &Section<'_, '_>, user: &User, groups: &[String]) {
    for (index, group) in user.groups.iter().enumerate() {
        if !groups.contains(group) {
            section.wrong_item(
                "groups",
                index,
                format!("{group} is not one of the gateway's auth.groups"),
                None,
            );
        }
    }
}

fn write_user(text: &mut String, name: &str, user: &User) -> fmt::Result {
    let bare = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let name = if bare { name.to_string() } else { format!("{name:?}") };
    writeln!(text, "\n[users.{name}]")?;
    if let Some(password) = &user.password {
        writeln!(text, "password = {password:?}")?;
    }
    if !user.groups.is_empty() {
        writeln!(text, "groups = {:?}", user.groups)?;
    }
    for (key, address) in reservations(user) {
        writeln!(text, "{key} = \"{address}\"")?;
    }
    if user.disabled {
        writeln!(text, "disabled = true")?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn gateway() -> GatewayConfig {
        let text = "[tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\n[auth]\nusers_file = \"u\"\ngroups = [\"staff\"]\n\
                    [pool]\nipv4 = \"10.0.0.0/29\"\n";
        GatewayConfig::parse(text, "gateway.toml", Path::new("/etc")).expect("a good configuration")
    }

    fn faults(text: &str) -> String {
        Users::parse_for(text, "users.toml", &gateway())
            .expect_err("a bad users file")
            .to_string()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let user = |ipv4: &str, disabled| User {
            password: Some(HASH.into()),
            groups: vec!["staff".into()],
            ipv4: ipv4.parse().ok(),
            ipv6: None,
            disabled,
        };
        let mut users = Users::default();
        users.0.insert("bob@example.com".into(), user("10.0.0.3", true));
        users.0.insert("alice".into(), user("10.0.0.2", false));
        users.0.insert("carol".into(), User::default());
        assert_eq!(Users::parse_for(&users.to_toml(), "users.toml", &gateway()), Ok(users));
        assert_eq!(Users::parse("", "users.toml"), Ok(Users::default()));
    }

    #[test]
    fn the_same_address_is_not_reserved_twice() {
        let text = "[users.alice]\nipv4 = \"10.0.0.2\"\n[users.bob]\nipv4 = \"10.0.0.2\"\n";
        assert!(faults(text).contains("users.toml:4:8: users.bob.ipv4: 10.0.0.2 is reserved for users.alice already"));
    }

    #[test]
    fn reservations_and_groups_fit_the_gateway() {
        for (line, reason) in [
            ("ipv4 = \"10.0.0.8\"", "not a host address of the pool 10.0.0.0/29"),
            ("ipv4 = \"10.0.0.7\"", "not a host address of the pool"),
            ("ipv4 = \"10.0.0.1\"", "gateway's own address"),
            ("ipv6 = \"2001:db8::2\"", "no IPv6 pool"),
            (
                "groups = [\"staff\", \"boss\"]",
                "users.toml:2:20: users.alice.groups: boss is not one of",
            ),
            ("pasword = \"x\"", "did you mean `password`?"),
        ] {
            let fault = faults(&format!("[users.alice]\n{line}\n"));
            assert!(fault.contains(reason), "{line}: {fault}");
        }
    }

    #[test]
    fn a_password_in_the_clear_is_refused_without_being_repeated() {
        for bad in [
            "hunter2",
            "$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAA",
            "$2b$10$hunter2",
        ] {
            let fault = faults(&format!("[users.alice]\npassword = \"{bad}\"\n"));
            assert!(fault.contains("users.alice.password: "), "{fault}");
            assert!(!fault.contains(bad), "{fault}");
        }
    }

    #[test]
    fn a_user_name_is_checked() {
        assert!(faults("[users.\"a b\"]\n").contains("is not a name"));
        assert!(faults("[user.alice]\n").contains("did you mean [users]?"));
        assert!(faults("users = 1\n").contains("expected a section"));
    }
}
