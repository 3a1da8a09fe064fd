//! The model host: what a tunnel puts on it, each thing with the mark of the instance it belongs to.

use std::fmt;

/// One tunnel instance of the whole schedule; unlike a generation, no two processes use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u32);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// Kinds of things, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Things(u8);

impl Things {
    /// The device.
    pub const LINK: Self = Self(1);
    /// Its addresses. They go with it.
    pub const ADDRESSES: Self = Self(2);
    /// The routes of the slot's table. They go with it too.
    pub const ROUTES: Self = Self(4);
    /// The rules that lead there.
    pub const RULES: Self = Self(8);
    /// Name servers and domains.
    pub const DNS: Self = Self(16);
    /// Tables of the firewall.
    pub const FIREWALL: Self = Self(32);
    /// Every kind, in the order in which they are put there.
    pub const ALL: [Self; 6] = [
        Self::LINK,
        Self::ADDRESSES,
        Self::ROUTES,
        Self::DNS,
        Self::FIREWALL,
        Self::RULES,
    ];
    /// Every kind, in the order in which a stop removes them; the device itself goes after the acknowledgement.
    pub const RELEASED: [Self; 4] = [Self::RULES, Self::DNS, Self::FIREWALL, Self::ROUTES];
    /// What a device that is down may leave until it goes.
    pub const BEHIND_A_DEAD_LINK: Self = Self(1 | 2 | 4);

    /// Nothing.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Whether there is nothing.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What the other has not.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for Things {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = ["link", "addresses", "routes", "rules", "dns", "firewall"];
        let named = words.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        let named: Vec<&str> = named.map(|(_, word)| *word).collect();
        f.write_str(if named.is_empty() { "nothing" } else { "" })?;
        f.write_str(&named.join(", "))
    }
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    mark: Mark,
    things: Things,
    link_up: bool,
    /// Named by the acknowledgement of a stop: owed work, not a trace that was forgotten.
    named: Things,
}

/// The host.
#[derive(Debug, Default)]
pub struct Host {
    owned: Vec<Owned>,
}

impl Host {
    fn of(&mut self, mark: Mark) -> &mut Owned {
        let at = self
            .owned
            .iter()
            .position(|owned| owned.mark == mark)
            .unwrap_or_else(|| {
                self.owned.push(Owned {
                    mark,
                    things: Things::none(),
                    link_up: false,
                    named: Things::none(),
                });
                self.owned.len() - 1
            });
        &mut self.owned[at]
    }

    /// Puts a thing there. One slot has one table, one set of rules and so on: what others have of that kind is replaced.
    pub fn put(&mut self, mark: Mark, thing: Things) {
        if thing == Things::LINK {
            self.of(mark).link_up = true;
        } else {
            for other in &mut self.owned {
                other.things = other.things.without(thing);
                other.named = other.named.without(thing);
            }
        }
        let owned = self.of(mark);
        owned.things = owned.things.and(thing);
    }

    /// Takes a thing away; with the device go its addresses and routes.
    pub fn take(&mut self, mark: Mark, thing: Things) {
        let whole = if thing == Things::LINK {
            Things::BEHIND_A_DEAD_LINK
        } else {
            thing
        };
        let owned = self.of(mark);
        owned.things = owned.things.without(whole);
        owned.named = owned.named.without(whole);
        owned.link_up &= thing != Things::LINK;
    }

    /// Sets the device down: from here no packet can enter it.
    pub fn set_down(&mut self, mark: Mark) {
        self.of(mark).link_up = false;
    }

    /// What an instance has there.
    pub fn left(&self, mark: Mark) -> Things {
        let owned = self.owned.iter().find(|owned| owned.mark == mark);
        owned.map_or(Things::none(), |owned| owned.things)
    }

    /// What an instance has there that still works: a device that is down holds no traffic, nor do its routes.
    pub fn in_force(&self, mark: Mark) -> Things {
        let owned = self.owned.iter().find(|owned| owned.mark == mark);
        owned.map_or(Things::none(), |owned| {
            if owned.link_up {
                owned.things
            } else {
                owned.things.without(Things::BEHIND_A_DEAD_LINK)
            }
        })
    }

    /// Notes what an acknowledgement named.
    pub fn name(&mut self, mark: Mark, things: Things) {
        let owned = self.of(mark);
        owned.named = owned.named.and(things);
    }

    /// What an instance has there and nobody named.
    pub fn nameless(&self, mark: Mark) -> Things {
        let owned = self.owned.iter().find(|owned| owned.mark == mark);
        owned.map_or(Things::none(), |owned| owned.things.without(owned.named))
    }

    /// Takes away everything, whoever it belongs to, but for one.
    pub fn sweep(&mut self, except: Option<Mark>) {
        self.owned.retain(|owned| Some(owned.mark) == except);
    }

    /// An instance, other than the excepted one, that has something there which nobody named.
    pub fn forgotten(&self, except: Option<Mark>) -> Option<(Mark, Things)> {
        let others = self.owned.iter().filter(|owned| Some(owned.mark) != except);
        let nameless = |owned: &Owned| (owned.mark, owned.things.without(owned.named));
        others.map(nameless).find(|(_, things)| !things.is_none())
    }

    /// A process ends, and the devices go whose descriptors nobody else keeps.
    pub fn close_links(&mut self, kept: Option<Mark>) {
        for at in 0..self.owned.len() {
            let mark = self.owned[at].mark;
            if Some(mark) != kept {
                self.take(mark, Things::LINK);
            }
        }
    }

    /// The host starts anew.
    pub fn reboot(&mut self) {
        self.owned.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_routes_go_with_the_device() {
        let mut host = Host::default();
        Things::ALL.iter().for_each(|thing| host.put(Mark(1), *thing));
        host.set_down(Mark(1));
        assert_eq!(host.in_force(Mark(1)).to_string(), "rules, dns, firewall");
        host.take(Mark(1), Things::LINK);
        assert_eq!(host.left(Mark(1)).to_string(), "rules, dns, firewall");
    }

    #[test]
    fn what_was_named_is_not_forgotten() {
        let mut host = Host::default();
        host.put(Mark(1), Things::DNS);
        assert_eq!(host.forgotten(None), Some((Mark(1), Things::DNS)));
        assert_eq!(host.forgotten(Some(Mark(1))), None);
        host.name(Mark(1), Things::DNS);
        assert_eq!(host.forgotten(None), None);
    }

    #[test]
    fn a_slot_has_one_of_each_but_may_have_two_devices() {
        let mut host = Host::default();
        for mark in [Mark(1), Mark(2)] {
            host.put(mark, Things::LINK);
            host.put(mark, Things::RULES);
        }
        assert_eq!(host.left(Mark(1)), Things::LINK);
        assert_eq!(host.left(Mark(2)).to_string(), "link, rules");
    }
}
