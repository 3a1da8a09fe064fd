//! The nearest valid key to one that does not exist.

use crate::Key;

/// Below this likeness (0 to 1) two words have nothing to do with each other.
const LIKENESS: f64 = 0.6;

/// What to say about the unknown key `name` in `section`.
pub(crate) fn for_key(section: &str, name: &str, keys: &[Key]) -> String {
    let (here, elsewhere): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(|key| key.section == section);
    let owners: Vec<String> = elsewhere
        .iter()
        .filter(|key| key.name == name)
        .map(|key| format!("[{}]", key.section))
        .collect();
    if !owners.is_empty() {
        return format!("it belongs to {}", owners.join(" or "));
    }
    if let Some(key) = nearest(name, &here, |key| key.name) {
        return format!("did you mean `{}`?", key.name);
    }
    if let Some(key) = nearest(name, &elsewhere, |key| key.name) {
        return format!("did you mean `{}` in [{}]?", key.name, key.section);
    }
    let valid: Vec<&str> = here.iter().map(|key| key.name).collect();
    format!("valid here: {}", valid.join(", "))
}

/// What to say about the unknown section (or key outside of any section) `name`.
pub(crate) fn for_section(name: &str, is_table: bool, sections: &[&str], keys: &[Key]) -> String {
    if !is_table && let Some(key) = keys.iter().find(|key| key.name == name) {
        return format!("it belongs to [{}]", key.section);
    }
    match nearest(name, sections, |section| section) {
        Some(section) => format!("did you mean [{section}]?"),
        None => format!("valid here: [{}]", sections.join("], [")),
    }
}

fn nearest<'a, T>(name: &str, candidates: &'a [T], word: impl Fn(&T) -> &str) -> Option<&'a T> {
    candidates
        .iter()
        .map(|candidate| (likeness(name, word(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// 0 to 1. A missing ending such as `_s` or `_file` counts as nearly equal; `-` and `_` are the same.
fn likeness(name: &str, word: &str) -> f64 {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let distance = strsim::normalized_damerau_levenshtein(&name, word);
    let common = name.len() >= 3 && (word.starts_with(&name) || name.starts_with(word));
    if common { distance.max(0.9) } else { distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<Key> {
        [
            ("listen", "addresses"),
            ("listen", "backlog"),
            ("tls", "key_file"),
            ("login", "key_file"),
            ("s", "dpd_s"),
        ]
        .into_iter()
        .map(|(section, name)| Key {
            section,
            name,
            default: None,
            limit: String::new(),
        })
        .collect()
    }

    #[test]
    fn a_misspelt_key_has_its_neighbour_in_the_same_section() {
        assert_eq!(for_key("listen", "adress", &keys()), "did you mean `addresses`?");
        assert_eq!(for_key("listen", "back-log", &keys()), "did you mean `backlog`?");
        assert_eq!(for_key("s", "dpd", &keys()), "did you mean `dpd_s`?");
    }

    #[test]
    fn a_key_of_another_section_is_sent_there() {
        assert_eq!(for_key("listen", "key_file", &keys()), "it belongs to [tls] or [login]");
        assert_eq!(
            for_key("tls", "adresses", &keys()),
            "did you mean `addresses` in [listen]?"
        );
        assert_eq!(
            for_section("backlog", false, &["listen"], &keys()),
            "it belongs to [listen]"
        );
    }

    #[test]
    fn a_word_like_no_other_gets_the_list() {
        assert_eq!(for_key("listen", "zzz", &keys()), "valid here: addresses, backlog");
        assert_eq!(
            for_section("zzz", true, &["listen", "tls"], &keys()),
            "valid here: [listen], [tls]"
        );
        assert_eq!(
            for_section("lisen", true, &["listen", "tls"], &keys()),
            "did you mean [listen]?"
        );
    }
}
