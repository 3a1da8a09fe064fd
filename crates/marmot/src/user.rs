//! `marmot user`: the gateway's users file.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use config::users::{User, Users};
use platform::files::replace_private;

use crate::cli::{UserAdd, UserName, UserPasswd};
use crate::exit::{Exit, Failure, answer};
use crate::{load, password};

/// Adds a user. The file is made if it is not there.
pub(crate) fn add(args: &UserAdd) -> Result<(), Failure> {
    let UserName { users: path, name } = &args.user;
    let user = User {
        password: if args.no_password {
            None
        } else {
            Some(hash(args.password_file.as_deref(), name)?)
        },
        groups: args.groups.clone(),
        ipv4: args.ipv4,
        ipv6: args.ipv6,
        disabled: false,
    };
    edit(path, |users| {
        if users.0.contains_key(name) {
            return Err(wrong(
                path,
                name,
                "is there already; `marmot user passwd` changes a password",
            ));
        }
        users.0.insert(name.clone(), user);
        Ok(())
    })?;
    done(&format!("{name} was added to"), path);
    Ok(())
}

/// Changes a password.
pub(crate) fn passwd(args: &UserPasswd) -> Result<(), Failure> {
    let UserName { users: path, name } = &args.user;
    if !read(path)?.0.contains_key(name) {
        return Err(wrong(path, name, "is not there; `marmot user add` adds users"));
    }
    let hash = hash(args.password_file.as_deref(), name)?;
    edit(path, |users| {
        let user = users
            .0
            .get_mut(name)
            .ok_or_else(|| wrong(path, name, "is not there any more"))?;
        user.password = Some(hash);
        Ok(())
    })?;
    done(&format!("the password of {name} was changed in"), path);
    Ok(())
}

/// Removes a user.
pub(crate) fn remove(args: &UserName) -> Result<(), Failure> {
    let UserName { users: path, name } = args;
    edit(path, |users| match users.0.remove(name) {
        Some(_) => Ok(()),
        None => Err(wrong(path, name, "is not there")),
    })?;
    done(&format!("{name} was removed from"), path);
    Ok(())
}

/// Lists the users, one a line.
pub(crate) fn list(path: &Path) -> Result<(), Failure> {
    answer(
        &read(path)?
            .0
            .iter()
            .map(|(name, user)| line(name, user))
            .collect::<String>(),
    );
    Ok(())
}

fn line(name: &str, user: &User) -> String {
    let mut words = vec![format!("{name:<20}")];
    words.push(
        if user.password.is_some() {
            "password"
        } else {
            "no password"
        }
        .to_string(),
    );
    if !user.groups.is_empty() {
        words.push(format!("groups {}", user.groups.join(",")));
    }
    words.extend(user.ipv4.map(|address| address.to_string()));
    words.extend(user.ipv6.map(|address| address.to_string()));
    if user.disabled {
        words.push("disabled".to_string());
    }
    format!("{}\n", words.join("  "))
}

fn hash(file: Option<&Path>, name: &str) -> Result<String, Failure> {
    let password = password::obtain(file, name)?;
    Ok(gateway::password::hash(&password).map_err(anyhow::Error::from)?)
}

fn read(path: &Path) -> Result<Users, Failure> {
    Ok(Users::parse(&load::text(path)?, &path.display().to_string())?)
}

/// Changes the file as a whole, while no other `marmot user` does. What is written has been read back before.
fn edit(path: &Path, change: impl FnOnce(&mut Users) -> Result<(), Failure>) -> Result<(), Failure> {
    let folder = config::folder(path);
    let lock = File::open(folder).with_context(|| format!("cannot open the folder {}", folder.display()))?;
    lock.lock()
        .with_context(|| format!("cannot lock the folder {}", folder.display()))?;
    let mut users = if path.exists() { read(path)? } else { Users::default() };
    change(&mut users)?;
    let text = users.to_toml();
    Users::parse(&text, &path.display().to_string())?;
    replace_private(path, text.as_bytes())?;
    Ok(())
}

fn wrong(path: &Path, name: &str, what: &str) -> Failure {
    Failure::new(Exit::Error, format!("user {name} {what} ({})", path.display()))
}

fn done(what: &str, path: &Path) {
    answer(&format!(
        "{what} {}; a running gateway reads it on SIGHUP\n",
        path.display()
    ));
}
