//! Which of our files a text is.

use toml::de::DeTable;

use crate::client::ClientConfig;
use crate::gateway::GatewayConfig;

/// The files that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`ClientConfig`].
    Client,
    /// [`GatewayConfig`].
    Gateway,
    /// [`crate::users::Users`].
    Users,
}

impl Kind {
    /// Guesses from the names of the sections, also of a text with mistakes; `None` if they tell nothing.
    pub fn guess(text: &str) -> Option<Kind> {
        let (root, _) = DeTable::parse_recoverable(text);
        let sections: Vec<&str> = root.get_ref().keys().map(|key| key.get_ref().as_ref()).collect();
        if sections.contains(&"users") {
            return Some(Kind::Users);
        }
        let only = |ours: &[&str], theirs: &[&str]| {
            sections
                .iter()
                .filter(|name| ours.contains(name) && !theirs.contains(name))
                .count()
        };
        let client: Vec<&str> = ClientConfig::keys().iter().map(|key| key.section).collect();
        let gateway: Vec<&str> = GatewayConfig::keys().iter().map(|key| key.section).collect();
        match only(&client, &gateway).cmp(&only(&gateway, &client)) {
            std::cmp::Ordering::Greater => Some(Kind::Client),
            std::cmp::Ordering::Less => Some(Kind::Gateway),
            std::cmp::Ordering::Equal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_known_by_its_sections_even_with_mistakes_in_it() {
        assert_eq!(
            Kind::guess(include_str!("../../../config/client.toml")),
            Some(Kind::Client)
        );
        assert_eq!(
            Kind::guess(include_str!("../../../config/gateway.toml")),
            Some(Kind::Gateway)
        );
        assert_eq!(Kind::guess("[users.alice]\n"), Some(Kind::Users));
        assert_eq!(Kind::guess("[lisen]\n[pool]\nipv4 = \n"), Some(Kind::Gateway));
        assert_eq!(Kind::guess("[tls]\n"), None);
        assert_eq!(Kind::guess(""), None);
    }
}
