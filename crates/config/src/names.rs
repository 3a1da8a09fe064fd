//! What a name may look like: tunnels, interfaces, users, groups, texts.

/// The longest interface name: IFNAMSIZ (16) less the terminating zero.
const MAX_INTERFACE_BYTES: usize = 15;

/// The longest tunnel name: an interface name less `mm-`.
const MAX_TUNNEL_BYTES: usize = 12;

/// The longest user or group name.
const MAX_NAME_BYTES: usize = 64;

pub(crate) const TUNNEL: &str = "1 to 12 of a-z, 0-9 and -";
pub(crate) const INTERFACE: &str = "1 to 15 of A-Z, a-z, 0-9, _, . and -";
pub(crate) const USER: &str = "1 to 64 of A-Z, a-z, 0-9, _, ., @, + and -";
pub(crate) const GROUPS: &str = "names: 1 to 64 of A-Z, a-z, 0-9, _, ., @, + and -";

/// The name of a tunnel.
pub(crate) fn tunnel(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match text.bytes().all(good) && text.len() <= MAX_TUNNEL_BYTES && !text.starts_with('-') {
        true => Ok(text.to_string()),
        false => Err("is not a tunnel name".into()),
    }
}

/// The name of a network interface. `%`, which the kernel replaces by a number, is not allowed.
pub(crate) fn interface(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match text.bytes().all(good) && text.len() <= MAX_INTERFACE_BYTES && text != "." && text != ".." {
        true => Ok(text.to_string()),
        false => Err("is not an interface name".into()),
    }
}

/// The name of a user or group.
pub(crate) fn user(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b'+');
    match text.bytes().all(good) && (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.starts_with('-') {
        true => Ok(text.to_string()),
        false => Err("is not a name".into()),
    }
}

/// A text for people, at most `max` bytes; line ends are allowed, other control characters are not.
pub(crate) fn text(text: &str, max: usize) -> Result<String, String> {
    if text.len() > max {
        return Err(format!("has {} bytes, {max} are allowed", text.len()));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err("contains a control character".into());
    }
    Ok(text.to_string())
}

/// A text of one line.
pub(crate) fn line(line: &str, max: usize) -> Result<String, String> {
    if line.contains('\n') {
        return Err("has more than one line".into());
    }
    text(line, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_reach_the_kernel_or_a_path_are_narrow() {
        assert!(tunnel("work-2").is_ok());
        assert!(interface("marmot-gw").is_ok());
        assert!(user("alice.b+c@example.com").is_ok());
        for bad in ["Work", "a/b", "a b", "thirteen-char", "-x", "ä"] {
            assert!(tunnel(bad).is_err(), "{bad}");
        }
        for bad in ["..", "tun%d", "a/b", "sixteen-byte-nam", "a b"] {
            assert!(interface(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a/b", "-rf", "a\"b", "a\nb"] {
            assert!(user(bad).is_err(), "{bad}");
        }
    }
}
