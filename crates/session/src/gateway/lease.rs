//! Address pools and leases.
//!
//! ```text
//!   10.78.0.0/24   .0 network   .1 gateway   .2 ... .254 leases   .255 broadcast
//! ```
//! A released address rests before somebody else gets it, so that packets for its last owner reach nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use now::Boot;
use thiserror::Error;

/// Addresses a session holds: proof that a packet's source was checked against something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Lease {
    /// Whether a packet from `source` may come from the holder of this lease.
    pub fn permits(&self, source: IpAddr) -> bool {
        self.addresses().any(|own| own == source)
    }

    /// The addresses held.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// Addresses an administrator has set aside for a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// Every address is held or, where the pool has no free one left, none rests either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("address pool exhausted")]
pub struct PoolExhausted;

/// The pools of a gateway and who holds what.
#[derive(Clone, Debug)]
pub struct Leases {
    v4: Option<Pool>,
    v6: Option<Pool>,
    rest: Duration,
}

impl Leases {
    /// Pools of at least four addresses each. A released address rests for `rest` of boot time unless the pool is empty.
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>, rest: Duration) -> Self {
        Self {
            v4: v4.map(|net| Pool::new(net.into())),
            v6: v6.map(|net| Pool::new(net.into())),
            rest,
        }
    }

    /// The gateway's own address in each pool, with the pool's prefix length.
    pub fn gateway_addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        let own = |pool: &Pool| IpNet::new(pool.at(1), pool.net.prefix_len()).expect("prefix of a valid network");
        self.v4.iter().chain(&self.v6).map(own)
    }

    /// The pools themselves.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.iter().chain(&self.v6).map(|pool| pool.net)
    }

    /// Sets aside the addresses that only their users get.
    pub fn reserve(&mut self, reservations: impl IntoIterator<Item = Reservation>) {
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for reservation in reservations {
            v4.extend(reservation.v4.map(IpAddr::V4));
            v6.extend(reservation.v6.map(IpAddr::V6));
        }
        if let Some(pool) = &mut self.v4 {
            pool.reserved = v4;
        }
        if let Some(pool) = &mut self.v6 {
            pool.reserved = v6;
        }
    }

    /// Adds the wanted families that `held` lacks. A reserved address that is free is taken first.
    ///
    /// # Errors
    /// [`PoolExhausted`] if nothing at all could be leased, or a wanted family that the gateway serves has no address.
    pub(super) fn lease(
        &mut self,
        mut held: Lease,
        wanted: (bool, bool),
        reserved: Reservation,
        now: Boot,
    ) -> Result<Lease, PoolExhausted> {
        let before = held;
        if let (None, true, Some(pool)) = (held.v4, wanted.0, &mut self.v4) {
            let IpAddr::V4(address) = pool.take(reserved.v4.map(IpAddr::V4), now)? else {
                return Err(PoolExhausted);
            };
            held.v4 = Some(address);
        }
        if let (None, true, Some(pool)) = (held.v6, wanted.1, &mut self.v6) {
            match pool.take(reserved.v6.map(IpAddr::V6), now) {
                Ok(IpAddr::V6(address)) => held.v6 = Some(address),
                Ok(IpAddr::V4(_)) | Err(_) => {
                    if let (None, Some(address)) = (before.v4, held.v4) {
                        self.release(
                            Lease {
                                v4: Some(address),
                                v6: None,
                            },
                            now,
                        );
                    }
                    return Err(PoolExhausted);
                }
            }
        }
        if held == Lease::default() {
            Err(PoolExhausted)
        } else {
            Ok(held)
        }
    }

    /// Takes those addresses of a lease from before that are still free for whoever has these set aside.
    pub(super) fn reclaim(&mut self, lease: Lease, reserved: Reservation, now: Boot) -> Lease {
        let take = |pool: &mut Option<Pool>, address: Option<IpAddr>, reserved: Option<IpAddr>| {
            pool.as_mut()?.reclaim(address?, reserved, now)
        };
        let v4 = take(&mut self.v4, lease.v4.map(IpAddr::V4), reserved.v4.map(IpAddr::V4));
        let v6 = take(&mut self.v6, lease.v6.map(IpAddr::V6), reserved.v6.map(IpAddr::V6));
        Lease {
            v4: lease.v4.filter(|_| v4.is_some()),
            v6: lease.v6.filter(|_| v6.is_some()),
        }
    }

    /// Gives a lease back; its addresses begin to rest.
    pub(super) fn release(&mut self, lease: Lease, now: Boot) {
        let until = now.plus(self.rest);
        if let (Some(address), Some(pool)) = (lease.v4, &mut self.v4) {
            pool.put_back(address.into(), until);
        }
        if let (Some(address), Some(pool)) = (lease.v6, &mut self.v6) {
            pool.put_back(address.into(), until);
        }
    }

    /// Whether a reserved address is held by somebody.
    pub(super) fn is_held(&self, address: IpAddr) -> bool {
        let pool = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        pool.as_ref().is_some_and(|pool| pool.held.contains(&address))
    }
}

/// One family's addresses.
#[derive(Clone, Debug)]
struct Pool {
    net: IpNet,
    /// Host numbers that can be leased: from 2 up to and including this one.
    last: u128,
    next: u128,
    held: BTreeSet<IpAddr>,
    resting: BTreeMap<IpAddr, Boot>,
    reserved: BTreeSet<IpAddr>,
}

/// Host number of the first lease: 0 is the network (or the subnet-router anycast address), 1 the gateway.
const FIRST: u128 = 2;

impl Pool {
    fn new(net: IpNet) -> Self {
        let net = net.trunc();
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        // The last IPv4 address is the broadcast address.
        let last = if net.addr().is_ipv4() {
            hosts.saturating_sub(1)
        } else {
            hosts
        };
        Self {
            net,
            last,
            next: FIRST,
            held: BTreeSet::new(),
            resting: BTreeMap::new(),
            reserved: BTreeSet::new(),
        }
    }

    fn at(&self, host: u128) -> IpAddr {
        match self.net.addr() {
            IpAddr::V4(base) => {
                let host = u32::try_from(host).expect("host number within an IPv4 pool");
                Ipv4Addr::from(u32::from(base) + host).into()
            }
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + host).into(),
        }
    }

    fn take(&mut self, reserved: Option<IpAddr>, now: Boot) -> Result<IpAddr, PoolExhausted> {
        if let Some(address) = reserved.filter(|address| self.net.contains(address) && !self.held.contains(address)) {
            return Ok(self.hold(address));
        }
        self.resting.retain(|_, until| *until > now);
        if let Some(address) = self.find(|pool, address| pool.resting.contains_key(address)) {
            return Ok(self.hold(address));
        }
        // Nothing fresh: the address that has rested longest.
        let rested = self
            .resting
            .iter()
            .filter(|(address, _)| !self.reserved.contains(address));
        let longest = rested
            .min_by_key(|(_, until)| **until)
            .map(|(address, _)| *address)
            .ok_or(PoolExhausted)?;
        Ok(self.hold(longest))
    }

    fn reclaim(&mut self, address: IpAddr, reserved: Option<IpAddr>, now: Boot) -> Option<IpAddr> {
        let leasable = self.is_leasable(address) && !self.held.contains(&address);
        let resting = self.resting.get(&address).is_some_and(|until| *until > now);
        let of_another = self.reserved.contains(&address) && reserved != Some(address);
        (leasable && !resting && !of_another).then(|| self.hold(address))
    }

    /// Whether this pool leases that address: not the network, the gateway or the broadcast address, nor one of another pool.
    fn is_leasable(&self, address: IpAddr) -> bool {
        let host = match (self.net.addr(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                u128::from(address.to_bits() - base.to_bits().min(address.to_bits()))
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => address.to_bits() - base.to_bits().min(address.to_bits()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        self.net.contains(&address) && (FIRST..=self.last).contains(&host)
    }

    /// The next address that is neither held, reserved nor `barred`. Looks at no more addresses than could be barred.
    fn find(&mut self, barred: impl Fn(&Self, &IpAddr) -> bool) -> Option<IpAddr> {
        let usable = self.last.checked_sub(FIRST - 1).filter(|usable| *usable > 0)?;
        let busy = (self.held.len() + self.resting.len() + self.reserved.len()) as u128;
        for _ in 0..usable.min(busy + 1) {
            let address = self.at(self.next);
            self.next = if self.next >= self.last { FIRST } else { self.next + 1 };
            if !self.held.contains(&address) && !self.reserved.contains(&address) && !barred(self, &address) {
                return Some(address);
            }
        }
        None
    }

    fn hold(&mut self, address: IpAddr) -> IpAddr {
        self.resting.remove(&address);
        self.held.insert(address);
        address
    }

    fn put_back(&mut self, address: IpAddr, until: Boot) {
        if self.held.remove(&address) {
            self.resting.insert(address, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: (bool, bool) = (true, true);

    fn boot(seconds: u64) -> Boot {
        Boot::from_origin(Duration::from_secs(seconds))
    }

    fn leases(v4: &str) -> Leases {
        let v6 = "fd00:78::/64".parse().expect("net");
        Leases::new(Some(v4.parse().expect("net")), Some(v6), Duration::from_secs(600))
    }

    fn take(leases: &mut Leases, now: Boot) -> Result<Lease, PoolExhausted> {
        leases.lease(Lease::default(), BOTH, Reservation::default(), now)
    }

    #[test]
    fn the_gateway_has_the_first_address_and_leases_follow() {
        let mut leases = leases("10.78.0.0/24");
        let own: Vec<String> = leases.gateway_addresses().map(|net| net.to_string()).collect();
        assert_eq!(own, ["10.78.0.1/24", "fd00:78::1/64"]);
        let lease = take(&mut leases, boot(0)).expect("free");
        assert_eq!(lease.v4, Some([10, 78, 0, 2].into()));
        assert_eq!(lease.v6, Some("fd00:78::2".parse().expect("address")));
        assert!(lease.permits([10, 78, 0, 2].into()) && !lease.permits([10, 78, 0, 3].into()));
    }

    #[test]
    fn a_small_pool_is_exhausted_and_never_leases_network_gateway_or_broadcast() {
        let mut leases = leases("10.78.0.0/29");
        let taken: Vec<Lease> = std::iter::from_fn(|| take(&mut leases, boot(0)).ok()).collect();
        let last_octets: Vec<u8> = taken
            .iter()
            .filter_map(|lease| lease.v4)
            .map(|v4| v4.octets()[3])
            .collect();
        assert_eq!(last_octets, [2, 3, 4, 5, 6]);
        assert_eq!(take(&mut leases, boot(0)), Err(PoolExhausted));
    }

    #[test]
    fn a_refused_lease_keeps_nothing() {
        let v6: Ipv6Net = "fd00:78::/126".parse().expect("net");
        let mut leases = Leases::new(Some("10.78.0.0/24".parse().expect("net")), Some(v6), Duration::ZERO);
        while take(&mut leases, boot(0)).is_ok() {}
        let held = leases.v4.as_ref().map(|pool| pool.held.len());
        assert_eq!(held, leases.v6.as_ref().map(|pool| pool.held.len()));
    }

    #[test]
    fn a_released_address_rests_unless_there_is_no_other() {
        let mut leases = leases("10.78.0.0/29");
        let first = take(&mut leases, boot(0)).expect("free");
        leases.release(first, boot(1));
        let others: Vec<Lease> = (0..4).map(|_| take(&mut leases, boot(2)).expect("free")).collect();
        assert!(others.iter().all(|lease| lease.v4 != first.v4));
        assert_eq!(take(&mut leases, boot(3)).expect("rested").v4, first.v4);
    }

    #[test]
    fn an_address_from_before_is_taken_back_unless_somebody_else_may_have_it() {
        let mut leases = leases("10.78.0.0/29");
        let of = |last| Lease {
            v4: Some([10, 78, 0, last].into()),
            v6: None,
        };
        let reserved = Reservation { v4: of(3).v4, v6: None };
        leases.reserve([reserved]);
        for wrong in [of(0), of(1), of(7), of(8), of(3)] {
            assert_eq!(leases.reclaim(wrong, Reservation::default(), boot(0)), Lease::default());
        }
        assert_eq!(leases.reclaim(of(3), reserved, boot(0)), of(3));
        assert_eq!(leases.reclaim(of(2), reserved, boot(0)), of(2));
        assert_eq!(leases.reclaim(of(2), reserved, boot(0)), Lease::default(), "it is held");
        leases.release(of(2), boot(1));
        assert_eq!(leases.reclaim(of(2), reserved, boot(600)), Lease::default(), "it rests");
        assert_eq!(leases.reclaim(of(2), reserved, boot(601)), of(2));
    }

    #[test]
    fn a_reserved_address_is_for_its_user_only() {
        let mut leases = leases("10.78.0.0/29");
        let reserved = Reservation {
            v4: Some([10, 78, 0, 3].into()),
            v6: None,
        };
        leases.reserve([reserved]);
        let others: Vec<Lease> = std::iter::from_fn(|| take(&mut leases, boot(0)).ok()).collect();
        assert!(others.iter().all(|lease| lease.v4 != reserved.v4));
        let own = leases
            .lease(Lease::default(), (true, false), reserved, boot(0))
            .expect("kept free");
        assert_eq!(own.v4, reserved.v4);
    }
}
