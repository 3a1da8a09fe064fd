//! The samples of `config/` with some values filled in: what `marmot init` writes has every key and its explanation.

const CLIENT: &str = include_str!("../../../config/client.toml");
const GATEWAY: &str = include_str!("../../../config/gateway.toml");

/// One value to fill in: section, key, value as TOML.
pub(crate) type Value<'a> = (&'a str, &'a str, String);

/// `client.toml` with these values.
pub(crate) fn client(values: &[Value<'_>]) -> String {
    fill(CLIENT, values)
}

/// `gateway.toml` with these values.
pub(crate) fn gateway(values: &[Value<'_>]) -> String {
    fill(GATEWAY, values)
}

/// A TOML string.
pub(crate) fn text(value: impl ToString) -> String {
    // The strings of Rust and TOML differ only in how they escape control characters, which none of ours has.
    format!("{:?}", value.to_string())
}

/// A TOML list of strings.
pub(crate) fn list<T: ToString>(values: &[T]) -> String {
    format!("{:?}", values.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn fill(sample: &str, values: &[Value<'_>]) -> String {
    let mut section = "";
    let mut filled = String::new();
    for line in sample.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        }
        let key = line.split_once(" = ").map(|(key, _)| key);
        let value = values
            .iter()
            .find(|(in_section, name, _)| *in_section == section && Some(*name) == key);
        match value {
            Some((_, name, value)) => filled.push_str(&format!("{name} = {value}\n")),
            None => filled.push_str(&format!("{line}\n")),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_goes_to_its_own_section_and_everything_else_stays() {
        let filled = fill("[a]\nx = 1\n# a word\n[b]\nx = 2\n", &[("b", "x", text("y"))]);
        assert_eq!(filled, "[a]\nx = 1\n# a word\n[b]\nx = \"y\"\n");
        assert_eq!(gateway(&[]), GATEWAY);
        assert_eq!(list(&["a", "b"]), "[\"a\", \"b\"]");
    }
}
